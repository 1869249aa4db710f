"""The one error that bad input raises: which field, what was found, what was expected."""


class InputError(ValueError):
    """Bad input from a person, a file or a config.

    The command line prints the message alone (no traceback) and exits with code 2.
    """

    def __init__(self, field: str, found: object, expected: object):
        self.field, self.found, self.expected = field, found, expected
        super().__init__(f"{field}: found {found}, expected {expected}")

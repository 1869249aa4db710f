"""The errors whose message is all that a person needs: bad input, and a run that cannot go on."""


class InputError(ValueError):
    """Bad input from a person, a file or a config.

    The command line prints the message alone (no traceback) and exits with code 2.
    """

    def __init__(self, field: str, found: object, expected: object):
        self.field, self.found, self.expected = field, found, expected
        super().__init__(f"{field}: found {found}, expected {expected}")


class RunError(RuntimeError):
    """A run that cannot go on although its input was good: a save that failed, steps that are not finite.

    The command line prints the message alone (no traceback) and exits with code 1.
    """

"""Configs refuse what they do not know and survive a round trip."""

import pytest

from wallwm_jax.core import config
from wallwm_jax.core.errors import InputError

SOURCE = """
import ml_collections

def get_config(arg="small"):
    return ml_collections.ConfigDict({"seed": 0, "data": {"rows": 8 if arg == "large" else 4, "root": "x"}})
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "experiment.py"
    file.write_text(SOURCE)
    return file


def test_argument_and_overrides(path):
    """The argument reaches get_config and overrides win."""
    assert config.load(f"{path}:large").data.rows == 8
    assert config.load(str(path), ["data.rows=16", "seed=3"]).to_dict() == {
        "seed": 3,
        "data": {"rows": 16, "root": "x"},
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.rwos=1", "nearest: 'rows'"),
        ("dta.rows=1", "nearest: 'data'"),
        ("data.rows=many", "expected a int"),
        ("data.rows.deep=1", "unknown key 'deep'"),
        ("rows", "key.path=value"),
    ],
)
def test_bad_overrides_are_named(path, override, message):
    """An unknown key names the nearest known one; a wrong type and a malformed override are refused too."""
    with pytest.raises(InputError, match=message):
        config.load(str(path), [override])


def test_missing_file_and_function(tmp_path):
    """A config that cannot be loaded says what was expected."""
    with pytest.raises(InputError, match="no file"):
        config.load(str(tmp_path / "none.py"))
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(InputError, match="get_config"):
        config.load(str(empty))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def get_config(arg):\n    raise ValueError(f'no size {arg!r}')", r"ValueError: no size 'tiny' \(line 2\)"),
        ("def get_config(arg):\n    return {'small': 1}[arg]", r"KeyError: 'tiny' \(line 2\)"),
        ("def get_config():\n    return None", r"TypeError: get_config\(\) takes 0 positional arguments"),
        ("def get_config(arg):\n    return {}", "found a dict, expected get_config"),
        ("import ml_collections\ndef get_config(arg:\n    pass", r"SyntaxError: .* \(line \d\)"),
        ("import wallwm_jaxx", r"ModuleNotFoundError: No module named 'wallwm_jaxx' \(line 1\)"),
        ("def get_config(arg):\n    raise ValueError('two\\n  lines')", r"ValueError: two lines \(line 2\)"),
    ],
)
def test_an_error_of_the_file_is_one_line(tmp_path, source, message):
    """Whatever the file raises when it is read or asked for an argument names the file, the argument and the line."""
    file = tmp_path / "broken.py"
    file.write_text(source)
    with pytest.raises(InputError, match=message) as caught:
        config.load(f"{file}:tiny")
    assert str(caught.value).startswith(f"--config {file}:tiny: found ") and "\n" not in str(caught.value)


def test_an_input_error_of_the_file_stays_as_it_is(tmp_path):
    """A config file that names its own field has said it better."""
    file = tmp_path / "own.py"
    file.write_text(
        "from wallwm_jax.core.errors import InputError\n"
        "def get_config(arg):\n    raise InputError('argument', arg, 'small')"
    )
    with pytest.raises(InputError, match=r"^argument: found tiny, expected small$"):
        config.load(f"{file}:tiny")


def test_round_trip(path):
    """What is saved with a checkpoint loads to an equal config."""
    loaded = config.load(str(path))
    assert config.to_json(config.from_json(config.to_json(loaded))) == config.to_json(loaded)


def test_check_keys():
    """Settings given as a mapping name their unknown keys."""
    with pytest.raises(InputError, match=r"config.data.*nearest: 'rows'"):
        config.check_keys({"rosw": 1}, ["rows", "root"], "config.data")

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


def test_round_trip(path):
    """What is saved with a checkpoint loads to an equal config."""
    loaded = config.load(str(path))
    assert config.to_json(config.from_json(config.to_json(loaded))) == config.to_json(loaded)


def test_check_keys():
    """Settings given as a mapping name their unknown keys."""
    with pytest.raises(InputError, match=r"config.data.*nearest: 'rows'"):
        config.check_keys({"rosw": 1}, ["rows", "root"], "config.data")

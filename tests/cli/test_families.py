"""How the command line finds what evaluates a family."""

import ml_collections
import pytest

from wallwm_jax.cli.families import COMMANDS, Commands, commands_of, commands_of_mode
from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.modes import MODES, InferenceMode


def toy_commands():
    """A row as somebody outside the package would write it."""
    return Commands(
        family="toys",
        sections=("toy_model",),
        stages=("toy",),
        check=lambda config: None,
        evaluate=lambda config, curated, workdir: 3,
        report=lambda found, workdir, seconds, rerun: None,
        drive=lambda config, curated, workdir, mode: mode,
        film=lambda driven, path: None,
    )


def test_a_family_has_its_own_row():
    """The world model is evaluated; the vision-language side only as a part of that; a row from outside is found."""
    assert commands_of("world_action").family == "world_action" and commands_of("reasoner") is None
    toys = toy_commands()
    assert commands_of("toys", (*COMMANDS, toys)) is toys and commands_of("toys") is None


def test_what_a_config_lacks_is_named():
    """Sections, and the stages whose settings are read; a config with all of it is described."""
    toys = toy_commands()
    config = ml_collections.ConfigDict({"stages": {}})
    with pytest.raises(InputError, match="config: found no 'toy_model', expected what the evaluation of family toys"):
        toys.require(config)
    config.toy_model = {}
    with pytest.raises(InputError, match=r"config\.stages: found no 'toy'"):
        toys.require(config)
    assert not toys.is_described(config)
    config.stages.toy = {}
    toys.require(config)
    assert toys.is_described(config)


def test_a_mode_is_driven_by_its_family():
    """Also a mode from outside of a family from outside; a family without a row, and an unknown mode, are refused."""
    modes = (
        *MODES,
        InferenceMode(name="play", load=lambda run, settings: None, source="caption", compared={}, family="toys"),
    )
    toys = toy_commands()
    assert commands_of_mode("unified").family == "world_action"
    assert commands_of_mode("play", modes, (*COMMANDS, toys)) is toys
    with pytest.raises(InputError, match=r"--mode: found 'play', expected a mode of one of the families"):
        commands_of_mode("play", modes)
    with pytest.raises(InputError, match=r"--mode: found 'units'.*nearest: 'unified'"):
        commands_of_mode("units")

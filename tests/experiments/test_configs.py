"""The shipped configs hold every key, so that all of them can be set on the command line."""

import pathlib

import pytest

from wallwm_jax.core.config import from_json, load, to_json
from wallwm_jax.core.errors import InputError
from wallwm_jax.train.architecture import build_model, build_reasoner
from wallwm_jax.train.families import FAMILIES, recipe_of, stages_of

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
CONFIGS = ("tabletop.py:demo", "tabletop.py:hour", "tabletop.py:stages", "wan.py:5b", "wan.py:14b")


def loaded(name, *overrides):
    return load(str(EXPERIMENTS / name), overrides)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_is_there(name):
    """Loader workers, checks, curation threads, the model's options and every stage; the recipe names stages."""
    config = loaded(name, "workers=1", "checks=True", "curation.threads=2", "model.cross_view=False", "model.unroll=2")
    assert (config.workers, config.checks, config.curation.threads) == (1, True, 2)
    assert not build_model(config.model, views=2).cross_view
    assert set(config.stages) == {stage.name for stage in stages_of(FAMILIES)}
    assert [stage.name for stage in recipe_of(config)] == list(config.recipe)


def test_fields_of_a_size_can_be_set():
    """Numbers, tuples and texts, of the world model and of the vision-language side; the config that a checkpoint keeps
    gives the same model; what is not set stays as the size has it, and every field of numbers or text is a key."""
    settings = ("layers=2", "arms=(0, 1)", "prediction=velocity", "min_time=0.1")
    config = loaded("tabletop.py:demo", *(f"model.overrides.{one}" for one in settings), "reasoner.overrides.latents=3")
    model = build_model(config.model, views=2)
    row, plain = model.variant, build_model(loaded("tabletop.py:demo").model, views=2).variant
    assert (row.layers, row.arms, row.prediction, row.min_time) == (2, (0, 1), "velocity", 0.1)
    assert (row.embed, row.codec) == (plain.embed, plain.codec) and plain.layers == 4
    assert build_reasoner(config.reasoner, row, 2, 8).variant.latents == 3
    assert build_model(from_json(to_json(config)).model, views=2) == model
    assert set(config.model.overrides) == {name for name in vars(plain) if name != "codec"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.overrides.layer=2", "unknown key 'layer'.*nearest: 'layers'"),
        ("model.overrides.layers=many", "expected a int"),
        ("reasoner.overrides.latent=2", "nearest: 'latents'"),
    ],
)
def test_fields_that_a_size_does_not_have_are_refused(override, message):
    """The nearest field is named, and a value of another type is refused."""
    with pytest.raises(InputError, match=message):
        loaded("tabletop.py:demo", override)
    with pytest.raises(InputError, match=r"model\.overrides: found unknown key 'layer', .*nearest: 'layers'"):
        build_model({"variant": "tiny", "overrides": {"layer": 2}}, views=1)

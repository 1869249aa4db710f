"""Families and stages are looked up by name or number, and what they read of a config stands with them."""

import ast
import dataclasses
import pathlib

import jax.numpy as jnp
import ml_collections
import pytest

import wallwm_jax
from tests.data import lerobot_fixture
from tests.train.synthetic import random_batch
from tests.train.toy import SETTINGS, TOY, toy_family, toy_parameters
from wallwm_jax.core.config import load
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import abstract_mesh
from wallwm_jax.data.curation.curate import CurationSettings, curate
from wallwm_jax.train.defaults import default_config
from wallwm_jax.train.families import FAMILIES, family_of, recipe_of, stage_of, stages_of
from wallwm_jax.train.loop import train_stage
from wallwm_jax.train.reasoner import MOMENTS, plan_settings
from wallwm_jax.train.stages import batch_rows
from wallwm_jax.train.world_action import loader_settings

STAGES = stages_of()
EXPERIMENTS = pathlib.Path(wallwm_jax.__file__).resolve().parents[1] / "experiments"


def config_of(**stages):
    return ml_collections.ConfigDict(
        {
            "data": {"rows": 4, "row_frames": 6},
            "planning": {"rows": 24},
            "windows": {"loader": {"row_frames": 10}},
            "model": {"variant": "micro"},
            "stages": stages,
        }
    )


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_has_rows_of_its_own_or_those_of_all(stage):
    """Its own section comes first; the settings of its loader agree, and no other stage notices."""
    moments = stage.batches is MOMENTS
    settings = plan_settings if moments else loader_settings
    shared = ("config.planning.rows", 24) if moments else ("config.data.rows", 4)
    assert batch_rows(stage, config_of()) == shared == batch_rows(stage, config_of(**{stage.name: {"rows": None}}))
    own = config_of(**{stage.name: {"rows": 16}})
    assert batch_rows(stage, own) == (f"config.stages.{stage.name}.rows", 16)
    assert settings(stage, own).rows == 16 and settings(stage, config_of()).rows == shared[1]
    for other in set(STAGES) - {stage}:
        assert batch_rows(other, own) == batch_rows(other, config_of())


def test_windows_may_have_rows_of_their_own():
    """What `windows.loader` says holds for the stage on windows alone."""
    config = config_of()
    config.windows.loader.rows = 2
    rows = {stage.name: batch_rows(stage, config) for stage in family_of(stage_of("video")).stages}
    assert rows.pop("adaptation") == ("config.windows.loader.rows", 2)
    assert set(rows.values()) == {("config.data.rows", 4)}


def test_rows_that_a_mesh_does_not_divide_are_named():
    """By the key that says them; and a section that says none is refused."""
    config, stage = config_of(video={"rows": 6}), stage_of("video")
    with pytest.raises(InputError, match=r"config\.stages\.video\.rows: found 6, expected a multiple of 4"):
        family_of(stage).check_mesh(stage, config, abstract_mesh("eight_devices", 8))
    del config.data.rows
    with pytest.raises(InputError, match=r"config\.data: found no key 'rows'"):
        batch_rows(stage_of("action"), config)


def test_stages_have_names_and_numbers():
    """Both find the same stage, as text or as a number; a misspelt name is told the nearest, an unknown number all."""
    assert [stage_of(stage.name) for stage in STAGES] == list(STAGES)
    assert {stage.number: stage.name for stage in STAGES} == {
        0: "backbone", 1: "video", 2: "action", 3: "conditioner", 4: "staircase", 5: "adaptation",
    }  # fmt: skip
    for stage in STAGES:
        assert stage_of(stage.number) is stage is stage_of(str(stage.number))
    with pytest.raises(InputError, match=r"--stage: found 'adaption', .*nearest: 'adaptation'"):
        stage_of("adaption", where="--stage")
    with pytest.raises(InputError, match=r"stage: found 7, expected .*video \(1\)"):
        stage_of("7")


def test_a_recipe_names_stages():
    """By names and numbers, mixed; a name alone is no recipe, since its letters would be read as stages."""
    config = config_of(video={}, action={})
    config.recipe = ("video", 2)
    assert [stage.name for stage in recipe_of(config)] == ["video", "action"]
    for recipe, match in [
        (("vidio",), r"config\.recipe: found 'vidio', .*nearest: 'video'"),
        ("video", r"config\.recipe: found 'video', expected a sequence"),
        (1, r"config\.recipe: found 1, expected a sequence"),
    ]:
        with pytest.raises(InputError, match=match):
            recipe_of({"recipe": recipe, "stages": {"video": {}}})


def test_a_family_from_outside_trains(tmp_path):
    """Passed as an argument, it is found by its stage's name and trains by the loop that all use, with a config that
    holds its own sections and no others."""
    families, curated = (*FAMILIES, toy_family(number=1)), tmp_path / "curated"
    recorded = lerobot_fixture.write_dataset(tmp_path / "recorded", lerobot_fixture.toy_episodes(4))
    curate(recorded, curated, recorded / "embodiment.json", CurationSettings())
    config = ml_collections.ConfigDict({"seed": 0, "mesh": "laptop", "data": {"rows": 2}, "toy_model": {}})
    config.stages = {"toy": default_config("toy", families).to_dict() | SETTINGS}
    found = train_stage(config, "toy", curated, tmp_path / "run", families=families)
    assert int(found.state.step) == SETTINGS["steps"]
    assert not jnp.array_equal(found.state.parameters["linear"]["weight"], toy_parameters()["linear"]["weight"])
    with pytest.raises(InputError, match="stage: found 'toy'"):
        train_stage(config, "toy", curated, tmp_path / "run")
    del config.toy_model
    with pytest.raises(InputError, match=r"config: found no 'toy_model', expected what stage toy needs"):
        train_stage(config, "toy", curated, tmp_path / "run", families=families)


def test_numbers_are_unique_in_a_family_only():
    """A number that two families have stands for the stage that the config describes, and for none if that is both;
    two stages of one name, or of one number in a family, are a mistake of whoever wrote the table."""
    families = (*FAMILIES, toy_family(number=1))
    assert stage_of(1, families, configured=["toy"]).name == "toy"
    assert stage_of("1", families, configured=["video", "action"]).name == "video"
    with pytest.raises(InputError, match=r"--stage: found 1, the number of video, toy, expected the name"):
        stage_of("1", families, configured=["video", "toy"], where="--stage")
    with pytest.raises(InputError, match="two stages with the name 'toy'"):
        stages_of((*families, toy_family(name="others", number=1)))
    twice = toy_family(stages=(TOY, dataclasses.replace(TOY, name="other")))
    with pytest.raises(InputError, match="two stages with the number in family toys 9"):
        stages_of((twice,))


def test_nothing_asks_which_family_or_window_a_stage_has():
    """What differs between families and between kinds of batches is a field of theirs: no code compares their names,
    nor an attribute `side` or `window` of a stage, with text."""
    names = {"side", "window", "family", "batches"}
    for path in sorted(pathlib.Path(wallwm_jax.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                operands = [node.left, *node.comparators]
                told = any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in operands)
                asked = any(_attribute(part) & names for part in operands)
                assert not (told and asked), f"{path}:{node.lineno}"


def _attribute(node: ast.expr) -> set[str]:
    """Names in an attribute chain: `stage.family.name` has all three."""
    found = set()
    while isinstance(node, ast.Attribute):
        found.add(node.attr)
        node = node.value
    return found


def test_a_batch_of_a_family_is_of_the_type_that_its_stage_says():
    """The synthetic batches that the other tests train on."""
    assert isinstance(random_batch(0), stage_of("video").batches.type)


def shipped(*overrides):
    return load(str(EXPERIMENTS / "tabletop.py:demo"), overrides)


def check(name, config):
    stage = stage_of(name)
    family_of(stage).check_config(stage, config)


def test_cells_of_pixels_are_the_codecs():
    """4 and 16 pixels are refused for a codec of 8; without a codec of its own a size takes what the data say."""
    check("video", shipped())
    for pixels in (4, 16):
        with pytest.raises(InputError, match=rf"config\.data\.spatial_compression: found {pixels}, expected 8, which"):
            check("video", shipped(f"data.spatial_compression={pixels}"))
    check("video", shipped("model.variant=wan2.1-14b", "data.spatial_compression=4"))


def test_windows_have_the_layout_of_all_stages():
    """`windows.loader` may say how its rows are filled, not how frames and captions are laid out."""
    config = shipped()
    with config.unlocked():
        config.windows.loader.frame_stride = 2
    check("adaptation", config)
    config.windows.loader.frame_stride = 4
    with pytest.raises(InputError, match=r"config\.windows\.loader\.frame_stride: found 4, expected 2"):
        check("adaptation", config)
    with pytest.raises(InputError, match=r"config\.windows\.index: found unknown key 'cluster'"):
        config = shipped()
        with config.unlocked():
            config.windows.index.cluster = 4
        check("adaptation", config)


def test_stage_5_reads_the_video_where_stage_2_does():
    """Inference has one anchor for both: another one in stage 5 is refused. In the shipped configs they are one
    section, so that one key sets both."""
    config = shipped("stages.action.objective.anchor_step=30")
    assert config.stages.adaptation.objective.action.anchor_step == 30
    check("adaptation", config)
    config.stages.adaptation.objective.action = config.stages.action.objective.copy_and_resolve_references()
    config.stages.adaptation.objective.action.anchor_step = 45
    with pytest.raises(InputError, match=r"config\.stages\.adaptation\.objective\.action: found .*anchor_step=45"):
        check("adaptation", config)

"""What the sides read of a config: the rows of a stage's batches."""

import ml_collections
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import abstract_mesh
from wallwm_jax.train.sides import batch_rows, check_mesh, loader_settings, plan_settings
from wallwm_jax.train.stages import STAGES, stage_of


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
    settings = loader_settings if stage.side == "world_action" else plan_settings
    shared = ("config.data.rows", 4) if stage.side == "world_action" else ("config.planning.rows", 24)
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
    rows = {stage.name: batch_rows(stage, config) for stage in STAGES if stage.side == "world_action"}
    assert rows.pop("adaptation") == ("config.windows.loader.rows", 2)
    assert set(rows.values()) == {("config.data.rows", 4)}


def test_rows_that_a_mesh_does_not_divide_are_named():
    """By the key that says them; and a section that says none is refused."""
    config = config_of(video={"rows": 6})
    with pytest.raises(InputError, match=r"config\.stages\.video\.rows: found 6, expected a multiple of 4"):
        check_mesh(stage_of("video"), config, abstract_mesh("eight_devices", 8))
    del config.data.rows
    with pytest.raises(InputError, match=r"config\.data: found no key 'rows'"):
        batch_rows(stage_of("action"), config)

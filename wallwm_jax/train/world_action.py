"""The world action model as a family: stages 1, 2 and 5 (WALL-WM table 1), on events and on windows."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import ml_collections
from jax.sharding import AbstractMesh, Mesh

from wallwm_jax.core.config import check_keys
from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import check_sequence, make_mesh, row_share
from wallwm_jax.core.types import EventBatch
from wallwm_jax.data.curated import INDEX, WINDOWS, CuratedDataset
from wallwm_jax.data.curation.window_clusters import WindowIndexSettings, index_windows
from wallwm_jax.data.pipeline import make_loader
from wallwm_jax.data.settings import FRAMES_PER_LATENT, DataLayout, LoaderSettings
from wallwm_jax.models.fits import check_cells, check_window
from wallwm_jax.models.initialise import abstract_parameters, init_parameters
from wallwm_jax.models.variants import Variant
from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.objectives.world_action import (
    ActionSettings,
    AdaptationSettings,
    VideoSettings,
    action_loss,
    adaptation_loss,
    video_loss,
)
from wallwm_jax.train.architecture import architecture, build_model
from wallwm_jax.train.family import ModelFamily
from wallwm_jax.train.run import StageData
from wallwm_jax.train.settings import build, stage_settings
from wallwm_jax.train.stages import Batches, Stage, batch_rows
from wallwm_jax.train.stand_in import with_codec


def loader_settings(stage: Stage, config: ml_collections.ConfigDict) -> LoaderSettings:
    """The settings of a stage's loader, with the rows of its global batch."""
    return LoaderSettings.from_config(stage.batches.section(config) | {"rows": batch_rows(stage, config)[1]})


def own_share(config: ml_collections.ConfigDict) -> dict[str, int]:
    """Which rows of a global batch this process loads, as the loaders' keywords say it."""
    index, count = row_share(make_mesh(config.mesh), jax.process_index())
    return {"process_index": index, "process_count": count}


def _event_data(
    stage: Stage, config: ml_collections.ConfigDict, curated: CuratedDataset, eval_batches: int
) -> StageData:
    """Training batches from any step, and the first `eval_batches` held-out batches, anchored at the events' starts."""
    settings, workers, share = loader_settings(stage, config), config.get("workers", 0), own_share(config)

    def train(step: int) -> Iterable[EventBatch]:
        return make_loader(
            curated, settings, seed=config.seed, split="train", start_step=step, workers=workers, **share
        )

    unmoved = dataclasses.replace(settings, anchor_jitter=0.0)
    heldout = make_loader(curated, unmoved, seed=config.seed, split="heldout", num_steps=eval_batches, **share)
    return StageData(train, tuple(heldout))


def _event_sizes(stage: Stage, config: ml_collections.ConfigDict, variant: Variant) -> dict[str, int]:
    """Pictures are square, `variant.cells` cells a side."""
    settings = loader_settings(stage, config)
    pixels = variant.cells * settings.spatial_compression
    return {
        "F": settings.row_frames,
        "R": FRAMES_PER_LATENT,
        "H": pixels,
        "W": pixels,
        "h": variant.cells,
        "w": variant.cells,
        "A": settings.row_actions,
        "S": settings.segments,
        "L": settings.batch_text_length,
    }


def _video_tokens(model: WorldAction, batch: EventBatch) -> int:
    return math.prod(batch.border_mask.shape) // model.variant.patch**2


def _window_index_settings(config: ml_collections.ConfigDict) -> WindowIndexSettings:
    return build(WindowIndexSettings, config.windows.get("index", {}), "config.windows.index")


def _check_windows(stage: Stage, config: ml_collections.ConfigDict) -> None:
    check_keys(config.windows, ("loader", "index"), "config.windows")
    own, shared = config.windows.get("loader", {}), LoaderSettings.from_config(config.data)
    for field in dataclasses.fields(DataLayout):
        if field.name in own and own[field.name] != getattr(shared, field.name):
            expected = f"{getattr(shared, field.name)}, as config.data says for all stages"
            raise InputError(f"config.windows.loader.{field.name}", own[field.name], expected)
    loader_settings(stage, config)
    _window_index_settings(config)


def _index_windows(stage: Stage, config: ml_collections.ConfigDict, curated: pathlib.Path) -> None:
    """Clusters the stage's observation-centred windows and writes their index."""
    if not (curated / WINDOWS).is_file():
        loader = loader_settings(stage, config)
        index_windows(CuratedDataset.open(curated), loader, _window_index_settings(config))


EVENTS = Batches(
    type=EventBatch,
    sections=("data",),
    layers=(("data",),),
    sources=(INDEX,),
    sizes=_event_sizes,
    tokens=_video_tokens,
    check=loader_settings,
)
"""Packed event-centric windows."""

OBSERVATION_WINDOWS = Batches(
    type=EventBatch,
    sections=("data", "windows"),
    layers=(("windows", "loader"), ("data",)),
    sources=(INDEX, WINDOWS),
    sizes=_event_sizes,
    tokens=_video_tokens,
    check=_check_windows,
    prepare=_index_windows,
)
"""Observation-centred windows (WALL-WM eq. 11), mixed with event-centric ones."""

VIDEO = Stage(
    name="video",
    number=1,
    trains=frozenset({"text_encoder", "video"}),
    objective=video_loss,
    settings=VideoSettings,
    batches=EVENTS,
    captions="the event's own, dropped with a probability that grows with its length",
)
"""It also trains the small text encoder, which has no public weights; a pretrained one stays frozen throughout
(`stages.video.freeze`)."""

ACTION = Stage(
    name="action",
    number=2,
    trains=frozenset({"action", "duration"}),
    objective=action_loss,
    settings=ActionSettings,
    batches=EVENTS,
    captions="the event's own",
    starts_from="video",
    copies=(("video/waypoint_head/keyframe_reader", "action/keyframe_reader"),),
    optional=frozenset({"duration"}),
)

ADAPTATION = Stage(
    name="adaptation",
    number=5,
    trains=frozenset({"video", "action"}),
    objective=adaptation_loss,
    settings=AdaptationSettings,
    batches=OBSERVATION_WINDOWS,
    captions="the task's or the event's, and the event's own of event-centric windows",
    starts_from="action",
)


def _build(config: ml_collections.ConfigDict, curated: CuratedDataset) -> WorldAction:
    """Raises InputError for pictures that are no whole number of latent cells and patches."""
    model, pixels = build_model(config.model, len(curated.views)), config.data.spatial_compression
    if any(side % pixels for side in curated.image_shape):
        found = "pictures of {} x {} pixels".format(*curated.image_shape)
        raise InputError(str(curated.root), found, f"multiples of data.spatial_compression, {pixels}")
    check_cells(model.variant, tuple(side // pixels for side in curated.image_shape))
    return model


def _rebuild(config: ml_collections.ConfigDict, record: Any) -> WorldAction:
    return build_model(config.model, record["views"])


def _check(stage: Stage, config: ml_collections.ConfigDict) -> None:
    """What the sections must agree on: cells of pixels with the codec, windows with the table of latent frames, and the
    anchor of stage 5 with stage 2's, which is the one that inference uses."""
    variant, settings = build_model(config.model, views=1).variant, loader_settings(stage, config)
    codec, pixels = variant.codec, settings.spatial_compression
    check_window(variant, settings.max_latent_frames - 1)
    for size in settings.resolutions:
        check_cells(variant, tuple(side // pixels for side in size))
    if settings.history is not None:
        check_window(variant, settings.history.future_latents, settings.history.history_latents)
    if codec is not None and codec.spatial_compression != pixels:
        expected = f"{codec.spatial_compression}, which the codec of config.model.variant {config.model.variant!r} has"
        raise InputError("config.data.spatial_compression", pixels, expected)
    if stage.settings is AdaptationSettings and ACTION.name in config.stages:
        own, shared = (stage_settings(one, config.stages[one.name]).objective for one in (stage, ACTION))
        if own.action.schedule != shared.schedule:
            where = f"config.stages.{stage.name}.objective.action"
            raise InputError(where, own.action.schedule, f"{shared.schedule}, as config.stages.{ACTION.name}.objective")


def _check_towers(stage: Stage, config: ml_collections.ConfigDict, mesh: Mesh | AbstractMesh) -> None:
    settings, row = loader_settings(stage, config), build_model(config.model, views=1).variant
    steps = f"control steps of {settings.row_frames} latent frames (data.frame_stride {settings.frame_stride})"
    tokens = {f"row_frames of stage {stage.name}": settings.row_frames, steps: settings.row_actions}
    heads = {"heads of config.model.variant": row.heads, "action_heads of config.model.variant": row.action_heads}
    check_sequence(tokens, heads, mesh)


def _planned(config: ml_collections.ConfigDict, views: int, remat: str | None) -> WorldAction:
    """With a stand-in for a codec that the variant leaves to somebody else."""
    model = build_model(config.model, views)
    changes = {} if remat is None else {"remat": remat}
    return model.clone(variant=with_codec(model.variant, config.data.spatial_compression), **changes)


WORLD_ACTION = ModelFamily(
    name="world_action",
    stages=(VIDEO, ACTION, ADAPTATION),
    build=_build,
    architecture=architecture,
    rebuild=_rebuild,
    shapes=abstract_parameters,
    init=init_parameters,
    data=_event_data,
    planned=_planned,
    variant=lambda model: model.variant,
    check=_check,
    check_towers=_check_towers,
)

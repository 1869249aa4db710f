"""The vision-language side as a family: stages 0, 3 and 4, on moments of episodes."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import PlanBatch
from wallwm_jax.data.curated import INDEX, CuratedDataset
from wallwm_jax.data.pipeline import batches_of
from wallwm_jax.data.planning import PLANS, TOKENIZER, PlanLoader, PlanSettings
from wallwm_jax.data.tokenizer import CaptionTokenizer
from wallwm_jax.models.initialise import abstract_reasoner, init_reasoner
from wallwm_jax.models.reasoner import Reasoner
from wallwm_jax.models.variants import Variant
from wallwm_jax.objectives.reasoning import (
    BackboneSettings,
    ConditionerSettings,
    StaircaseSettings,
    backbone_loss,
    conditioner_loss,
    staircase_loss,
)
from wallwm_jax.train.architecture import build_model, build_reasoner, reasoner_architecture
from wallwm_jax.train.family import ModelFamily
from wallwm_jax.train.run import StageData
from wallwm_jax.train.stages import Batches, Stage, batch_rows
from wallwm_jax.train.world_action import own_share


def plan_settings(stage: Stage, config: ml_collections.ConfigDict) -> PlanSettings:
    """The settings of a stage's moments, with the rows of its global batch."""
    return PlanSettings.from_config(stage.batches.section(config) | {"rows": batch_rows(stage, config)[1]})


def plan_data(stage: Stage, config: ml_collections.ConfigDict, curated: CuratedDataset, eval_batches: int) -> StageData:
    """Training batches of moments from any step, and the first `eval_batches` held-out ones, none of them blank."""
    settings, length = plan_settings(stage, config), config.data.text_length
    share = own_share(config)
    loader = PlanLoader(curated, settings, length, seed=config.seed, split="train", **share)
    asked = dataclasses.replace(settings, blank_share=0.0)
    heldout = PlanLoader(curated, asked, length, seed=config.seed, split="heldout", **share)

    def train(step: int) -> Iterable[PlanBatch]:
        return batches_of(loader, step, workers=config.get("workers", 0))

    return StageData(train, tuple(batches_of(heldout, num_steps=eval_batches)))


def _moment_sizes(stage: Stage, config: ml_collections.ConfigDict, variant: Variant) -> dict[str, int]:
    """Pictures are square, `variant.cells` cells of the world model a side."""
    settings, pixels = plan_settings(stage, config), variant.cells * config.data.spatial_compression
    return {
        "H": pixels,
        "W": pixels,
        "P": settings.prompt_length,
        "C": settings.caption_length,
        "R": settings.trace_length,
        "N": settings.notes_length,
        "L": config.data.text_length,
    }


def _text_tokens(model: Reasoner, batch: PlanBatch) -> int:
    return batch.prompt.size + batch.caption.size + batch.trace.size


MOMENTS = Batches(
    type=PlanBatch,
    sections=("data", "planning"),
    layers=(("planning",),),
    sources=(INDEX, PLANS, TOKENIZER),
    sizes=_moment_sizes,
    tokens=_text_tokens,
    check=plan_settings,
)
"""Frames of episodes with the instruction, what has been done, and what comes next."""

_SECTIONS = ("model", "reasoner")

STAGES: tuple[Stage, ...] = (
    Stage(
        name="backbone",
        number=0,
        trains=frozenset({"trunk", "language_model"}),
        objective=backbone_loss,
        settings=BackboneSettings,
        batches=MOMENTS,
        captions="the event's own after a prompt, and the trace",
        takes=(("text_encoder", "video"),),
        model_sections=_SECTIONS,
    ),
    Stage(
        name="conditioner",
        number=3,
        trains=frozenset({"conditioner"}),
        objective=conditioner_loss,
        settings=ConditionerSettings,
        batches=MOMENTS,
        captions="the event's own",
        starts_from="backbone",
        model_sections=_SECTIONS,
    ),
    Stage(
        name="staircase",
        number=4,
        trains=frozenset({"staircase"}),
        objective=staircase_loss,
        settings=StaircaseSettings,
        batches=MOMENTS,
        captions="the trace, and the event's canonical caption",
        starts_from="conditioner",
        model_sections=_SECTIONS,
    ),
)
"""Stage 0 is no stage of the paper's: it makes the small models that stand where the paper has pretrained ones."""


def _build(config: ml_collections.ConfigDict, curated: CuratedDataset) -> Reasoner:
    model = _rebuild(config, {"views": len(curated.views), "text_length": config.data.text_length})
    row, tokens = model.variant, CaptionTokenizer.load(curated.root / TOKENIZER).size
    if row.vocabulary < tokens:
        raise InputError("reasoner.vocabulary", row.vocabulary, f"the tokenizer's {tokens} or more")
    if any(side % row.patch for side in curated.image_shape):
        raise InputError("reasoner.patch", row.patch, f"a divisor of the picture's sides {curated.image_shape}")
    return model


def _rebuild(config: ml_collections.ConfigDict, record: Mapping[str, Any]) -> Reasoner:
    world = build_model(config.model, record["views"]).variant
    return build_reasoner(config.reasoner, world, record["views"], record["text_length"])


def _planned(config: ml_collections.ConfigDict, views: int, remat: str | None) -> Reasoner:
    """The model as it is trained: it recomputes nothing, whatever `remat` says."""
    return _rebuild(config, {"views": views, "text_length": config.data.text_length})


def _check(stage: Stage, config: ml_collections.ConfigDict) -> None:
    _rebuild(config, {"views": 1, "text_length": config.data.text_length})


REASONER = ModelFamily(
    name="reasoner",
    stages=STAGES,
    build=_build,
    architecture=reasoner_architecture,
    rebuild=_rebuild,
    shapes=abstract_reasoner,
    init=init_reasoner,
    data=plan_data,
    planned=_planned,
    variant=lambda model: model.world,
    check=_check,
)

"""The two sides of the system as what training needs of each: the world model, and the vision-language side.

A stage names its side; what a side reads of the config, and what batches it learns from, stands here.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import AbstractMesh, Mesh

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.mesh import check_batch, check_sequence, make_mesh, row_share
from wallwm_jax.core.types import EventBatch, PlanBatch
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.pipeline import batches_of, make_loader
from wallwm_jax.data.planning import TOKENIZER, PlanLoader, PlanSettings
from wallwm_jax.data.settings import LoaderSettings
from wallwm_jax.data.tokenizer import CaptionTokenizer
from wallwm_jax.models.fits import check_window
from wallwm_jax.models.initialise import abstract_parameters, abstract_reasoner, init_parameters, init_reasoner
from wallwm_jax.models.reasoner import Reasoner
from wallwm_jax.train.architecture import architecture, build_model, build_reasoner, reasoner_architecture
from wallwm_jax.train.run import StageData
from wallwm_jax.train.stages import Stage


@dataclasses.dataclass(frozen=True)
class Side:
    """`sections` of the config decide what its stages learn, besides their own. `build(config, curated)` gives the
    model, `architecture(model)` its JSON, `rebuild(config, architecture)` the model; `data(stage, config, curated,
    eval_batches)` the batches, which are of type `batch` and described by the section `batches`, `shapes(model, batch)`
    those of the parameters and their declarations, and `init(model, key, batch, mesh)` fresh ones in their place."""

    sections: tuple[str, ...]
    build: Callable[[ml_collections.ConfigDict, CuratedDataset], Any]
    architecture: Callable[[Any], dict[str, Any]]
    rebuild: Callable[[ml_collections.ConfigDict, Mapping[str, Any]], Any]
    data: Callable[[Stage, ml_collections.ConfigDict, CuratedDataset, int], StageData]
    shapes: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    init: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    batches: str
    batch: type


def batch_rows(stage: Stage, config: ml_collections.ConfigDict) -> tuple[str, int]:
    """The key of the config that says how many rows a stage's global batch has, and how many: the stage's own `rows`,
    or those of all stages that learn from such batches."""
    places = [("stages", stage.name), (SIDES[stage.side].batches,)]
    if stage.window == "observation":
        places.insert(1, ("windows", "loader"))
    for place in places:
        section: Any = config
        for part in place:
            section = section.get(part, {})
        if section.get("rows") is not None:
            return ".".join(("config", *place, "rows")), section["rows"]
    raise InputError(f"config.{SIDES[stage.side].batches}", "no key 'rows'", "the rows of a global batch")


def loader_settings(stage: Stage, config: ml_collections.ConfigDict) -> LoaderSettings:
    """Of `config.data`; a stage on observation-centred windows takes what `config.windows.loader` says instead."""
    section = config.data.to_dict()
    if stage.window == "observation":
        section |= config.windows.loader.to_dict()
    return LoaderSettings.from_config(section | {"rows": batch_rows(stage, config)[1]})


def plan_settings(stage: Stage, config: ml_collections.ConfigDict) -> PlanSettings:
    """Of `config.planning`."""
    return PlanSettings.from_config(config.planning.to_dict() | {"rows": batch_rows(stage, config)[1]})


def check_mesh(stage: Stage, config: ml_collections.ConfigDict, mesh: Mesh | AbstractMesh, parts: int = 1) -> None:
    """Raises InputError unless a mesh divides what it splits of a stage's batches, and of each of their parts, and of
    its towers; and for windows that are longer than the model's table of latent frames."""
    where, rows = batch_rows(stage, config)
    check_batch(rows, mesh, parts, where)
    if stage.side == "world_action":
        settings, row = loader_settings(stage, config), build_model(config.model, views=1).variant
        check_window(row, settings.max_latent_frames - 1)
        if settings.history is not None:
            check_window(row, settings.history.future_latents, settings.history.history_latents)
        steps = f"control steps of {settings.row_frames} latent frames (data.frame_stride {settings.frame_stride})"
        tokens = {f"row_frames of stage {stage.name}": settings.row_frames, steps: settings.row_actions}
        heads = {"heads of config.model.variant": row.heads, "action_heads of config.model.variant": row.action_heads}
        check_sequence(tokens, heads, mesh)


def event_data(
    stage: Stage, config: ml_collections.ConfigDict, curated: CuratedDataset, eval_batches: int
) -> StageData:
    """Training batches from any step, and the first `eval_batches` held-out batches, anchored at the events' starts."""
    settings, workers, share = loader_settings(stage, config), config.get("workers", 0), _own_share(config)

    def train(step: int) -> Iterable[EventBatch]:
        return make_loader(
            curated, settings, seed=config.seed, split="train", start_step=step, workers=workers, **share
        )

    unmoved = dataclasses.replace(settings, anchor_jitter=0.0)
    heldout = make_loader(curated, unmoved, seed=config.seed, split="heldout", num_steps=eval_batches, **share)
    return StageData(train, tuple(heldout))


def plan_data(stage: Stage, config: ml_collections.ConfigDict, curated: CuratedDataset, eval_batches: int) -> StageData:
    """The same of moments."""
    settings, length = plan_settings(stage, config), config.data.text_length
    share = _own_share(config)
    loader = PlanLoader(curated, settings, length, seed=config.seed, split="train", **share)
    asked = dataclasses.replace(settings, blank_share=0.0)
    heldout = PlanLoader(curated, asked, length, seed=config.seed, split="heldout", **share)

    def train(step: int) -> Iterable[PlanBatch]:
        return batches_of(loader, step, workers=config.get("workers", 0))

    return StageData(train, tuple(batches_of(heldout, num_steps=eval_batches)))


def _own_share(config: ml_collections.ConfigDict) -> dict[str, int]:
    index, count = row_share(make_mesh(config.mesh), jax.process_index())
    return {"process_index": index, "process_count": count}


def _reasoner(config: ml_collections.ConfigDict, curated: CuratedDataset) -> Reasoner:
    model = _rebuilt_reasoner(config, {"views": len(curated.views), "text_length": config.data.text_length})
    row, tokens = model.variant, CaptionTokenizer.load(curated.root / TOKENIZER).size
    if row.vocabulary < tokens:
        raise InputError("reasoner.vocabulary", row.vocabulary, f"the tokenizer's {tokens} or more")
    if any(side % row.patch for side in curated.image_shape):
        raise InputError("reasoner.patch", row.patch, f"a divisor of the picture's sides {curated.image_shape}")
    return model


def _rebuilt_reasoner(config: ml_collections.ConfigDict, record: Mapping[str, Any]) -> Reasoner:
    world = build_model(config.model, record["views"]).variant
    return build_reasoner(config.reasoner, world, record["views"], record["text_length"])


def sections(stage: Stage) -> tuple[str, ...]:
    """The config's sections that decide what a stage learns, besides its own and the seed."""
    windows = ("windows",) if stage.window == "observation" else ()
    return SIDES[stage.side].sections + windows


SIDES: Mapping[str, Side] = {
    "world_action": Side(
        sections=("data", "model"),
        build=lambda config, curated: build_model(config.model, len(curated.views)),
        architecture=architecture,
        rebuild=lambda config, record: build_model(config.model, record["views"]),
        data=event_data,
        shapes=abstract_parameters,
        init=init_parameters,
        batches="data",
        batch=EventBatch,
    ),
    "reasoner": Side(
        sections=("data", "model", "reasoner", "planning"),
        build=_reasoner,
        architecture=reasoner_architecture,
        rebuild=_rebuilt_reasoner,
        data=plan_data,
        shapes=abstract_reasoner,
        init=init_reasoner,
        batches="planning",
        batch=PlanBatch,
    ),
}

"""The training stages as a table (WALL-WM table 1): what trains, on which loss; all else is frozen."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from wallwm_jax.core.errors import InputError
from wallwm_jax.objectives.reasoning import (
    BackboneSettings,
    ConditionerSettings,
    StaircaseSettings,
    backbone_loss,
    conditioner_loss,
    staircase_loss,
)
from wallwm_jax.objectives.world_action import (
    ActionSettings,
    AdaptationSettings,
    VideoSettings,
    action_loss,
    adaptation_loss,
    video_loss,
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row. `objective(model, parameters, batch, key, settings) -> (loss, metrics)`, which of a part of a batch is
    also given `portion=` and returns shares that add up (`objectives.portions`); `settings` is the class of the
    objective's settings; `starts_from` names the stage whose averaged parameters this one starts from, and `takes`
    (tower, stage) pairs of towers that come from other stages; `copies` names parts that start as a copy of another
    part of the same shapes, (from, to), where the model has both; `optional` names towers that a model may lack. `side`
    says whose tower names these are: the world model's ("world_action") or the vision-language side's ("reasoner").
    `window` is what a batch holds: events ("event"), observation-centred windows and events ("observation"), or moments
    of episodes ("moment")."""

    name: str
    number: int
    trains: frozenset[str]
    objective: Callable[..., Any]
    settings: type
    window: str
    captions: str
    starts_from: str | None = None
    side: str = "world_action"
    takes: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    optional: frozenset[str] = frozenset()


STAGES: tuple[Stage, ...] = (
    Stage(
        name="video",
        number=1,
        trains=frozenset({"text_encoder", "video"}),
        objective=video_loss,
        settings=VideoSettings,
        window="event",
        captions="the event's own, dropped with a probability that grows with its length",
    ),
    Stage(
        name="action",
        number=2,
        trains=frozenset({"action", "duration"}),
        objective=action_loss,
        settings=ActionSettings,
        window="event",
        captions="the event's own",
        starts_from="video",
        copies=(("video/waypoint_head/keyframe_reader", "action/keyframe_reader"),),
        optional=frozenset({"duration"}),
    ),
    Stage(
        name="backbone",
        number=0,
        trains=frozenset({"trunk", "language_model"}),
        objective=backbone_loss,
        settings=BackboneSettings,
        window="moment",
        captions="the event's own after a prompt, and the trace",
        side="reasoner",
        takes=(("text_encoder", "video"),),
    ),
    Stage(
        name="conditioner",
        number=3,
        trains=frozenset({"conditioner"}),
        objective=conditioner_loss,
        settings=ConditionerSettings,
        window="moment",
        captions="the event's own",
        starts_from="backbone",
        side="reasoner",
    ),
    Stage(
        name="staircase",
        number=4,
        trains=frozenset({"staircase"}),
        objective=staircase_loss,
        settings=StaircaseSettings,
        window="moment",
        captions="the trace, and the event's canonical caption",
        starts_from="conditioner",
        side="reasoner",
    ),
    Stage(
        name="adaptation",
        number=5,
        trains=frozenset({"video", "action"}),
        objective=adaptation_loss,
        settings=AdaptationSettings,
        window="observation",
        captions="the task's or the event's, and the event's own of event-centric windows",
        starts_from="action",
    ),
)
"""Stage 1 also trains the small text encoder, which has no public weights; a pretrained one stays frozen throughout
(`stages.video.freeze`).
Stage 0 is no stage of the paper's: it makes the small models that stand where the paper has pretrained ones."""


def stage_of(name: str) -> Stage:
    """The stage of that name; raises InputError when there is none."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise InputError("stage", repr(name), f"one of {[stage.name for stage in STAGES]}")


def without_absent(stage: Stage, parameters: Mapping[str, Any]) -> Stage:
    """`stage` without its optional towers that a model with these parameters does not have."""
    return dataclasses.replace(stage, trains=stage.trains - (stage.optional - set(parameters)))

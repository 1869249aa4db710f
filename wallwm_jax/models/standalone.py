"""The two towers of a world model as networks of their own, and their parameters, there and back.

| in the world model | in the standalone network |
|---|---|
| `video/NAME`, without the guidance's | `NAME` |
| `blocks/video` | `blocks/video` |
| `action/NAME`, without the guidance's | `NAME` |
| `blocks/action` | `blocks/action` |
"""

from collections.abc import Collection, Mapping
from typing import Any

from wallwm_jax.models.world_action import WorldAction
from wallwm_jax.nn.action_dit import ActionDiT
from wallwm_jax.nn.guidance.guidance import ACTION_PARTS, VIDEO_PARTS
from wallwm_jax.nn.video_dit import VideoDiT

_BLOCKS = "blocks"


def video_dit(model: WorldAction) -> VideoDiT:
    """The model's video tower. Its guides are the channels of the model's sketch, if the model has waypoints."""
    options = {"cross_view": model.cross_view, "remat": model.remat, "unroll": model.unroll}
    return VideoDiT(model.variant.video_sizes(model.views), model.dtype, **options)


def action_dit(model: WorldAction) -> ActionDiT:
    """The model's action tower. Its guides are those of the model's guidance."""
    return ActionDiT(model.variant.action_sizes, model.dtype, remat=model.remat, unroll=model.unroll)


def video_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Of the world model's parameters, those of `video_dit`."""
    return _tower(parameters, "video", VIDEO_PARTS)


def action_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Of the world model's parameters, those of `action_dit`."""
    return _tower(parameters, "action", ACTION_PARTS)


def with_towers(
    parameters: Mapping[str, Any],
    *,
    video: Mapping[str, Any] | None = None,
    action: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The world model's parameters with those of `video_dit` and `action_dit` in their places; None keeps its own."""
    joint = {**parameters, _BLOCKS: {**parameters[_BLOCKS]}}
    for name, tower in (("video", video), ("action", action)):
        if tower is not None:
            joint[name] = {**parameters[name], **{key: part for key, part in tower.items() if key != _BLOCKS}}
            joint[_BLOCKS][name] = tower[_BLOCKS][name]
    return joint


def _tower(parameters: Mapping[str, Any], name: str, guidance: Collection[str]) -> dict[str, Any]:
    around = {key: part for key, part in parameters[name].items() if key not in guidance}
    return {**around, _BLOCKS: {name: parameters[_BLOCKS][name]}}

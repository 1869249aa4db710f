"""Dreamt events beside the recorded ones and beside what the codec makes of the recorded ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from wallwm_jax.core.model import Model
from wallwm_jax.data.curated import CuratedDataset
from wallwm_jax.data.settings import FRAMES_PER_LATENT
from wallwm_jax.evaluate.events import future_frames, observation
from wallwm_jax.evaluate.open_loop import OpenLoop
from wallwm_jax.evaluate.settings import EvaluationSettings
from wallwm_jax.evaluate.video_quality import EventFrames


class Reconstruct:
    """The codec's encode and decode of frame groups, `rows` at a time: what no dream can surpass. One compilation."""

    def __init__(self, model: Model, parameters: Any, rows: int = 16):
        def rebuild(frames):
            latents = model.apply({"params": parameters}, frames[:, None], method="encode_frames")
            decoded = model.apply({"params": parameters}, latents, method="decode_frames")
            return jnp.clip(jnp.round(decoded[:, 0]), 0, 255).astype(jnp.uint8)

        self._rebuild, self._rows = jax.jit(rebuild), rows

    def __call__(self, groups: UInt8[np.ndarray, "N R V H W 3"]) -> UInt8[np.ndarray, "N R V H W 3"]:
        count = len(groups)
        padded = np.concatenate([groups, np.zeros((-count % self._rows, *groups.shape[1:]), np.uint8)])
        parts = [np.asarray(self._rebuild(padded[i : i + self._rows])) for i in range(0, len(padded), self._rows)]
        return np.concatenate(parts)[:count]


def dreamt_frames(
    result: OpenLoop,
    curated: CuratedDataset,
    settings: EvaluationSettings,
    reconstruct: Reconstruct,
) -> list[EventFrames]:
    """Truth, dream and the codec's reconstruction of the truth at the last frame of every latent of dreamt events."""
    groups = [future_frames(curated, result.events[place], settings.window) for place in result.dreamt]
    rebuilt = np.split(reconstruct(np.concatenate(groups)), np.cumsum([len(group) for group in groups])[:-1])
    return [
        EventFrames(
            keyframe=observation(curated, result.events[place]).views,
            truth=truth[:, -1],
            dream=result.predictions[place].frames[FRAMES_PER_LATENT::FRAMES_PER_LATENT],
            codec=codec[:, -1],
        )
        for place, truth, codec in zip(result.dreamt, groups, rebuilt, strict=True)
    ]

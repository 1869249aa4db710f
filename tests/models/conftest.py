"""Events that can be laid out packed or apart, and the compiled micro model that the tests of this folder share."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.types import EventBatch
from wallwm_jax.models.initialise import init_parameters
from wallwm_jax.models.variants import variant
from wallwm_jax.models.world_action import WorldAction

ROWS, SLOTS, VIEWS, SEGMENTS, STEPS_A_LATENT, LENGTH, DRAWS, SIDE = 3, 5, 2, 2, 2, 5, 2, 16
STEPS = (SLOTS - 1) * STEPS_A_LATENT
CELLS, CHANNELS = 4, 24
QUICK = {"xla_llvm_disable_expensive_passes": True}
"""Tests compile far longer than they run."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One event with everything that a model is given for it, the noise included."""

    arrays: dict[str, np.ndarray]
    slots: int
    steps: int
    history: int = 0

    @classmethod
    def draw(
        cls, seed: int, slots: int, steps: int, *, text: int, views: tuple[bool, ...] = (True, True), history: int = 0
    ) -> "Sample":
        rng = np.random.default_rng(seed)
        dof = np.zeros(26, bool)
        dof[[10, 11, 12, 19]] = True
        arrays = {
            "frames": rng.integers(0, 256, (slots, 4, VIEWS, SIDE, SIDE, 3), dtype=np.uint8),
            "view_mask": np.tile(np.array(views), (slots, 1)),
            "state": rng.normal(size=26).astype(np.float32),
            "dof_mask": dof,
            "text": rng.integers(3, 259, LENGTH).astype(np.int32),
            "text_mask": np.arange(LENGTH) < text,
            "noisy_video": rng.normal(size=(slots, VIEWS, CELLS, CELLS, CHANNELS)).astype(np.float32),
            "noisy_action": rng.normal(size=(DRAWS, steps, 26)).astype(np.float32),
            "video_time": rng.uniform(0.2, 1.0, ()).astype(np.float32),
            "action_time": rng.uniform(0.2, 1.0, DRAWS).astype(np.float32),
        }
        return cls(arrays, slots, steps, history)


def _empty(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Rows of padding: masks False, everything else arbitrary."""
    b, f, v, s, a = ROWS, SLOTS, VIEWS, SEGMENTS, STEPS
    ids, flags, noise = (lambda *n: np.zeros(n, np.int32)), (lambda *n: np.zeros(n, bool)), rng.normal
    batch = EventBatch(
        frames=rng.integers(0, 256, (b, f, 4, v, SIDE, SIDE, 3), dtype=np.uint8),
        frame_segment_ids=ids(b, f), frame_positions=ids(b, f), frame_times=noise(size=(b, f)).astype("f"),
        frame_mask=flags(b, f), view_mask=flags(b, f, v), border_mask=np.ones((b, f, v, CELLS, CELLS), bool),
        intrinsics=np.zeros((b, f, v, 3, 3), "f"), extrinsics=np.zeros((b, f, v, 4, 4), "f"),
        camera_mask=flags(b, f, v), effectors=noise(size=(b, f, 4, 2, 3)).astype("f"),
        effector_mask=flags(b, f, 4, 2), actions=noise(size=(b, a, 26)).astype("f"), action_segment_ids=ids(b, a),
        action_positions=ids(b, a), action_times=noise(size=(b, a)).astype("f"), action_mask=flags(b, a),
        dof_mask=flags(b, s, 26), state=noise(size=(b, s, 26)).astype("f"), text=ids(b, s, LENGTH),
        text_mask=flags(b, s, LENGTH), told_event=flags(b, s), segment_mask=flags(b, s), event_steps=ids(b, s),
        truncated=flags(b, s),
        event_rows=ids(b, s) - 1, observed_mask=flags(b, f), action_frames=ids(b, a), anchor_positions=ids(b, s),
    )._asdict()  # fmt: skip
    noises = {
        "noisy_video": noise(size=(b, f, v, CELLS, CELLS, CHANNELS)).astype("f"),
        "noisy_action": noise(size=(b, DRAWS, a, 26)).astype("f"),
        "video_time": np.ones((b, s), "f"),
        "action_time": np.ones((b, DRAWS, s), "f"),
    }
    return batch, noises


def lay_out(samples: list[Sample], rows: list[list[int]], seed: int = 0) -> tuple[EventBatch, dict[str, np.ndarray]]:
    """`samples` in the given rows, in order, padding at the end; and the noisy inputs and times."""
    batch, noises = _empty(np.random.default_rng(seed))
    for row, members in enumerate(rows):
        slot = step = 0
        for segment, index in enumerate(members):
            sample, own = samples[index], samples[index].arrays
            f, a = slice(slot, slot + sample.slots), slice(step, step + sample.steps)
            batch["frame_segment_ids"][row, f] = batch["action_segment_ids"][row, a] = segment + 1
            batch["frame_mask"][row, f] = batch["action_mask"][row, a] = True
            batch["frame_positions"][row, f] = np.arange(sample.slots)
            batch["observed_mask"][row, f] = np.arange(sample.slots) <= sample.history
            batch["action_positions"][row, a] = np.arange(sample.steps)
            batch["action_frames"][row, a] = sample.history + np.arange(sample.steps) // STEPS_A_LATENT + 1
            batch["anchor_positions"][row, segment] = sample.history
            batch["frame_times"][row, f] = 0.4 * (np.arange(sample.slots) - sample.history)
            batch["action_times"][row, a] = 0.05 * (1 + np.arange(sample.steps))
            batch["frames"][row, f], batch["view_mask"][row, f] = own["frames"], own["view_mask"]
            for name in ("state", "dof_mask", "text", "text_mask"):
                batch[name][row, segment] = own[name]
            batch["told_event"][row, segment] = True
            batch["segment_mask"][row, segment], batch["event_steps"][row, segment] = True, sample.steps
            noises["noisy_video"][row, f] = own["noisy_video"]
            noises["noisy_action"][row, :, a] = own["noisy_action"]
            noises["video_time"][row, segment] = own["video_time"]
            noises["action_time"][row, :, segment] = own["action_time"]
            slot, step = slot + sample.slots, step + sample.steps
    return EventBatch(**batch), noises


def of_events(samples: list[Sample], rows: list[list[int]], outputs: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """(video velocity, action velocity, log steps) of every sample, cut out of a batch's outputs."""
    video, action, steps = outputs
    found: dict[int, tuple[Any, ...]] = {}
    for row, members in enumerate(rows):
        slot = step = 0
        for segment, index in enumerate(members):
            f, a = slice(slot, slot + samples[index].slots), slice(step, step + samples[index].steps)
            found[index] = (video[row, f], action[row, :, a], steps[row, segment : segment + 1])
            slot, step = f.stop, a.stop
    return [found[index] for index in sorted(found)]


def randomise(params: Any, seed: int) -> Any:
    """Adds noise to every parameter: no branch, head or gate is zero any more."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype("f"), params)


def lay_out_outputs(samples: list[Sample], rows: list[list[int]], events: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The inverse of `of_events`: zeros wherever no event is."""
    video = np.zeros((ROWS, SLOTS, VIEWS, CELLS, CELLS, CHANNELS), "f")
    action, steps = np.zeros((ROWS, DRAWS, STEPS, 26), "f"), np.zeros((ROWS, SEGMENTS), "f")
    for target, part in zip(of_events(samples, rows, (video, action, steps)), events, strict=True):
        for view, value in zip(target, part, strict=True):
            view[...] = value
    return video, action, steps


class Micro:
    """The micro model, its parameters and one compiled joint pass."""

    def __init__(self, overrides: dict[str, Any] | None = None, **options: Any):
        self.model = WorldAction(variant("micro", overrides), VIEWS, **options)
        batch, _ = lay_out([Sample.draw(0, 2, 2, text=3)], [[0]])
        self.fresh, self.declarations = init_parameters(self.model, jax.random.key(0), batch)
        self.params = randomise(self.fresh, 1)
        self.joint = jax.jit(self._joint, compiler_options=QUICK)
        self.gradients = jax.jit(jax.grad(self._weighted, argnums=(0, 2)), compiler_options=QUICK)

    def _weighted(self, params: Any, batch: EventBatch, noises: dict[str, Any], weights: tuple[Any, ...]) -> Any:
        outputs = self._joint(params, batch, noises)
        return sum(jnp.sum(part * weight) for part, weight in zip(outputs, weights, strict=True))

    def _joint(self, params: Any, batch: EventBatch, noises: dict[str, Any]) -> tuple[Any, ...]:
        inputs = (noises[name] for name in ("noisy_video", "noisy_action", "video_time", "action_time"))
        return self.model.apply({"params": params}, batch, *inputs)

    def apply(self, params: Any, *inputs: Any, method: Any, **named: Any) -> Any:
        given = jax.tree.map(lambda part: jnp.asarray(part) if isinstance(part, np.ndarray) else part, (inputs, named))
        return self.model.apply({"params": params}, *given[0], **given[1], method=method)

    def video(self, params: Any, batch: EventBatch, noises: dict[str, Any], sight_cones: bool = False) -> Any:
        """(velocity, features) of a video-only pass."""
        latents = self.apply(params, batch.frames, method="encode_frames")
        observed = self.apply(params, batch, latents, method="keyframes")
        text = self.text(params, batch)
        sketch = self.apply(params, batch, observed, **text, method="foresee")
        given = {**text, "sketch": sketch, "sight_cones": sight_cones, "method": "video"}
        return self.apply(params, batch, noises["noisy_video"], observed, noises["video_time"], **given)

    def text(self, params: Any, batch: EventBatch) -> dict[str, Any]:
        """What the model's methods are told, by keyword."""
        features = self.apply(params, batch.text, batch.text_mask, method="encode_text")
        return {"text_features": features, "text_mask": jnp.asarray(batch.text_mask)}


@pytest.fixture(scope="session")
def micro() -> Micro:
    return Micro()


@pytest.fixture(scope="session")
def blind() -> Micro:
    """Without keyframe readers, waypoints and painter, which look at all views at once: the towers alone."""
    return Micro({"reader": ()})


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Three events: an ordinary one, one without text, one with an absent camera."""
    return [
        Sample.draw(1, 2, 2, text=4),
        Sample.draw(2, 3, 3, text=0),
        Sample.draw(3, 3, 4, text=5, views=(True, False)),
    ]


@pytest.fixture(scope="session")
def helpers() -> Any:
    """This module's functions, for tests (which cannot import a conftest)."""

    class Helpers:
        pass

    for function in (lay_out, lay_out_outputs, of_events, randomise):
        setattr(Helpers, function.__name__, staticmethod(function))
    Helpers.Micro, Helpers.QUICK, Helpers.Sample = Micro, QUICK, Sample
    return Helpers


@pytest.fixture(scope="session")
def inputs(samples: list[Sample]) -> tuple[EventBatch, dict[str, jnp.ndarray]]:
    """The samples packed: two in the first row, one in the second, the third row empty."""
    return lay_out(samples, [[0, 1], [2], []])

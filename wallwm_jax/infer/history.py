"""What a robot has seen lately: a ring of observations, from which unified mode reads its history latents."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import Observation
from wallwm_jax.data.settings import FRAMES_PER_LATENT
from wallwm_jax.data.windows import observed_offsets


class History:
    """What one robot saw in its last 1 + 4 M `frame_stride` control steps.

    A push copies one observation's pixels into a ring, whatever the ring's length; a read copies them once more, into
    the batch. The slots are those of the training windows: what lies before the first observation is masked, and the
    slot that the first observation falls in is filled by repeating it. A slot is masked, too, if one of its steps went
    unobserved; an observation every `frame_stride` steps, the present one among them, fills all slots.
    """

    def __init__(self, history_latents: int, frame_stride: int):
        if history_latents < 0 or frame_stride < 1:
            found = f"{history_latents} latents, stride {frame_stride}"
            raise InputError("history", found, "0 or more latents, a stride of 1 or more")
        self._offsets = observed_offsets(history_latents, frame_stride)
        self._capacity = 1 + history_latents * FRAMES_PER_LATENT * frame_stride
        self._frames: UInt8[np.ndarray, "n V H W 3"] | None = None
        self._count = 0

    def push(self, observation: Observation, steps: int = 1) -> None:
        """Adds the present observation, `steps` control steps after the one before it; a first one starts the count.

        Raises:
            InputError: its images have another shape than those before, or `steps` is less than 1.
        """
        if steps < 1:
            raise InputError("history: steps since the observation before", steps, "at least 1")
        if self._frames is None:
            self._frames = np.empty((self._capacity, *observation.views.shape), np.uint8)
            self._seen = np.empty((self._capacity, len(observation.view_mask)), bool)
            self._observed = np.zeros(self._capacity, bool)
        if observation.views.shape != self._frames.shape[1:]:
            raise InputError("observation.views", observation.views.shape, f"{self._frames.shape[1:]}, as before")
        missed = min(steps - 1, self._capacity) if self._count else 0
        self._count += steps - 1 if self._count else 0
        self._observed[np.arange(self._count - missed, self._count) % self._capacity] = False
        self._count += 1
        self._write(observation)

    def replace(self, observation: Observation) -> None:
        """Puts another observation in the place of the present one; raises InputError as `push`, or if there is
        none."""
        self._check()
        if observation.views.shape != self._frames.shape[1:]:
            raise InputError("observation.views", observation.views.shape, f"{self._frames.shape[1:]}, as before")
        self._write(observation)

    def _write(self, observation: Observation) -> None:
        place = (self._count - 1) % self._capacity
        self._frames[place], self._seen[place] = observation.views, observation.view_mask
        self._observed[place] = True
        self._state, self._dof_mask = np.array(observation.state), np.array(observation.dof_mask)

    def clear(self) -> None:
        """Forgets everything: a new episode begins."""
        self._count = 0

    def __len__(self) -> int:
        """Observations that are held."""
        held = min(self._count, self._capacity)
        return int(self._observed[np.arange(self._count - held, self._count) % self._capacity].sum()) if held else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """[V, H, W, 3] of the observations; raises InputError if there is none."""
        self._check()
        return self._frames.shape[1:]

    @property
    def state(self) -> Float[np.ndarray, "26"]:
        """The current state: unified layout, metres and radians, world frame."""
        self._check()
        return self._state

    @property
    def dof_mask(self) -> Bool[np.ndarray, "26"]:
        """Degrees of freedom that the current state has."""
        self._check()
        return self._dof_mask

    def write(self, frames: UInt8[np.ndarray, "O 4 V H W 3"]) -> tuple[Bool[np.ndarray, "O"], Bool[np.ndarray, "O V"]]:
        """Writes the raw frames of the M + 1 observed slots into `frames`, and returns which slots and views are real.

        Slots that are not are left as they are. A view is real in a slot if all its frames have it.
        """
        self._check()
        wanted = self._count - 1 + self._offsets
        places = np.maximum(wanted, 0) % self._capacity
        real = (wanted[:, -1] >= 0) & self._observed[places].all(axis=1)
        for slot in np.flatnonzero(real):
            np.take(self._frames, places[slot], axis=0, mode="clip", out=frames[slot])
        return real, real[:, None] & self._seen[places].all(axis=1)

    def _check(self) -> None:
        if not self._count:
            raise InputError("history", "no observation", "at least one")

"""The point of the denoising path at which the action tower reads the video tower (WALL-WM eq. 12)."""

import dataclasses

from wallwm_jax.core.errors import InputError
from wallwm_jax.objectives.flow import shift_time


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchorSchedule:
    """The anchor is step `anchor_step` of `denoise_steps`, counted from pure noise towards data, on Wan's schedule
    with a `shift`. Training and inference share these three numbers.

    The paper's anchor is step 45 of 50. With a shift of 5 that is t = 0.36, the "mid-noise" the paper speaks of (0.1
    without shift). Step 0 reads pure noise. Raises InputError outside the schedule.
    """

    anchor_step: int = 45
    denoise_steps: int = 50
    shift: float = 5.0

    def __post_init__(self):
        if self.denoise_steps < 1:
            raise InputError("denoise_steps", self.denoise_steps, "at least 1")
        if not 0 <= self.anchor_step <= self.denoise_steps:
            raise InputError("anchor_step", self.anchor_step, f"a step of 0..{self.denoise_steps}")

    @property
    def anchor(self) -> float:
        """The anchor as a fraction of the way from pure noise to data, before the shift."""
        return self.anchor_step / self.denoise_steps

    @property
    def anchor_time(self) -> float:
        """The anchor's time t: 1 is pure noise, 0 is data."""
        return float(shift_time(1 - self.anchor, self.shift))

    @property
    def schedule(self) -> "AnchorSchedule":
        """These three numbers alone, to be compared."""
        return AnchorSchedule(anchor_step=self.anchor_step, denoise_steps=self.denoise_steps, shift=self.shift)

"""`wallwm record`: a plan of simulated episodes, recorded as a LeRobot v3.0 dataset."""

import os
import time

from wallwm_jax.core.errors import InputError


def record(plan: str, output: str, episodes: int | None, workers: int) -> None:
    """Records `plan` (a name in `recorder.PLANS`) into `output`, going on where an earlier call was interrupted.

    Raises InputError for an unknown plan, a length that the plan does not take, a missing `sim` extra, or an output
    that already holds a dataset.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        from wallwm_jax.simulate import recorder
    except ImportError as error:
        raise InputError("wallwm record", f"no simulator ({error})", "pip install 'wallwm_jax[sim]'") from error
    if plan not in recorder.PLANS:
        raise InputError("--plan", repr(plan), f"one of {sorted(recorder.PLANS)}")
    if episodes is not None and plan not in recorder.FREE_LENGTH:
        expected = f"no such option: only the plans {', '.join(recorder.FREE_LENGTH)} have a free length"
        raise InputError("--episodes", episodes, expected)
    rows = recorder.PLANS[plan](*([] if episodes is None else [episodes]))
    started = time.monotonic()

    def progress(done: int, planned: int) -> None:
        print(f"recorded {done}/{planned} episodes, {time.monotonic() - started:.0f} s", flush=True)

    texts = recorder.TEXT_PLANS.get(plan, 0)
    report = recorder.record(output, rows, workers=workers, progress=progress, text_plans=texts)
    print(f"{report.output}: {report.episodes} episodes, {report.events} events, {report.frames} frames")
    for line in report.rejected:
        print(f"rejected: {line}")

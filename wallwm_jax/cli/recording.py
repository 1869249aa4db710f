"""`wallwm record`: a plan of simulated episodes, recorded as a LeRobot v3.0 dataset."""

import os
import time

from wallwm_jax.core.errors import InputError


def record(plan: str, output: str, episodes: int | None, workers: int) -> None:
    """Records `plan` ("sample", "tabletop", "stock") into `output`, going on where an earlier call was interrupted.

    Raises InputError for an unknown plan, a missing `sim` extra, or an output that already holds a dataset.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        from wallwm_jax.simulate import recorder
    except ImportError as error:
        raise InputError("wallwm record", f"no simulator ({error})", "pip install 'wallwm_jax[sim]'") from error
    if plan not in recorder.PLANS:
        raise InputError("--plan", repr(plan), f"one of {sorted(recorder.PLANS)}")
    if episodes is not None and plan != "tabletop":
        raise InputError("--episodes", episodes, "no such option: only the tabletop plan has a free length")
    rows = recorder.tabletop_plan(episodes) if episodes is not None else recorder.PLANS[plan]()
    started = time.monotonic()

    def progress(done: int, planned: int) -> None:
        print(f"recorded {done}/{planned} episodes, {time.monotonic() - started:.0f} s", flush=True)

    report = recorder.record(output, rows, workers=workers, progress=progress)
    print(f"{report.output}: {report.episodes} episodes, {report.events} events, {report.frames} frames")
    for line in report.rejected:
        print(f"rejected: {line}")

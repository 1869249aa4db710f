"""One recorded episode: the expert drives the environment through a program and every frame is kept."""

import numpy as np

from wallwm_jax.core.types import Event
from wallwm_jax.simulate import expert
from wallwm_jax.simulate.environment import TabletopEnvironment
from wallwm_jax.simulate.programs import Program, caption
from wallwm_jax.simulate.recording import EpisodeFailed, Recording


def record_episode(environment: TabletopEnvironment, seed: int, program: Program, render: bool = True) -> Recording:
    """Performs a program from a seed.

    Args:
        render: False leaves the images out (`frames` is then [T, 0, 0, 0, 3]), to try seeds cheaply.

    Raises:
        EpisodeFailed: an event did not do what its caption says.
    """
    environment.reset(seed, program)
    generator = np.random.Generator(np.random.Philox(key=[seed, 2]))
    style = expert.draw_style(generator)
    rows: list[tuple] = []
    events, recovery, places = [], [], []
    gripper = _perform_beforehand(environment, seed, program, style)
    for primitive in program.primitives:
        start = len(rows)
        environment.begin_event()
        snapshot = environment.snapshot()
        plan = expert.motion(primitive, snapshot, style, generator)
        nudge = expert.draw_nudge(primitive, style, generator)
        words = caption(primitive, generator)
        for action in expert.actions(plan, gripper, style, nudge):
            rows.append((environment.state(), action, *environment.cameras(), _images(environment, render)))
            environment.step(action)
            gripper = float(action[3])
        if not environment.event_completed(primitive.verb, primitive.object, primitive.target):
            raise EpisodeFailed(f"seed {seed}, {program.name}: {primitive.verb} {primitive.object}")
        target = primitive.target or ""
        events.append(Event(start, len(rows), words, primitive.verb, primitive.object, target))
        recovery.append(nudge is not None or bool(program.skipped and len(events) == 1))
        places.append(snapshot.objects)
    state, action, intrinsics, extrinsics, frames = (np.stack(column) for column in zip(*rows, strict=True))
    return Recording(
        seed,
        program.name,
        program.caption,
        environment.views,
        state,
        action,
        frames,
        intrinsics.astype(np.float32),
        extrinsics.astype(np.float32),
        tuple(events),
        tuple(recovery),
        tuple(places),
    )


def _perform_beforehand(environment: TabletopEnvironment, seed: int, program: Program, style: expert.Style) -> float:
    """Performs what is over when the episode starts, and returns the gripper's last command.

    The last of it ends 20 to 80 mm off to a side that the seed draws: a start near contact from which the next event
    has more to correct than it ever has after an event of the expert's own.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, 3]))
    gripper = environment.layout.gripper
    for number, primitive in enumerate(program.beforehand, start=1):
        plan = expert.motion(primitive, environment.snapshot(), style, generator)
        if number == len(program.beforehand):
            plan = expert.disturbed(plan, generator)
        for action in expert.actions(plan, gripper, style, None):
            environment.step(action)
            gripper = float(action[3])
    return gripper


def _images(environment: TabletopEnvironment, render: bool) -> np.ndarray:
    return environment.render() if render else np.zeros((0, 0, 0, 3), np.uint8)

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
    gripper = environment.layout.gripper
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
        recovery.append(nudge is not None)
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


def _images(environment: TabletopEnvironment, render: bool) -> np.ndarray:
    return environment.render() if render else np.zeros((0, 0, 0, 3), np.uint8)

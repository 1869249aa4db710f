"""Small packed batches of random content for the "micro" model: 4 latent slots of 2 cameras with 16 x 16 pixels."""

import numpy as np

from wallwm_jax.core.types import EventBatch, PlanBatch

SLOTS, VIEWS, SIZE, CELLS, SEGMENTS, LETTERS = 4, 2, 16, 4, 2, 6
STEPS_A_LATENT = 4
ACTIONS = (SLOTS - 1) * STEPS_A_LATENT


def random_batch(seed: int, rows: int = 2) -> EventBatch:
    """Even rows hold two events of 4 and 3 control steps; odd rows one of 7 steps and a padded slot."""
    generator = np.random.default_rng(seed)
    even = np.arange(rows)[:, None] % 2 == 0
    frame_ids = np.where(even, [1, 1, 2, 2], [1, 1, 1, 0]).astype(np.int32)
    positions = np.where(even, [0, 1, 0, 1], [0, 1, 2, 0]).astype(np.int32)
    steps = np.arange(ACTIONS)
    first, second = np.where(even, 4, 7), np.where(even, 3, 0)
    action_ids = np.where(steps < first, 1, np.where(steps < first + second, 2, 0)).astype(np.int32)
    action_positions = np.where(action_ids == 2, steps - first, steps) * (action_ids > 0)
    dof = np.zeros((rows, SEGMENTS, 26), bool)
    dof[..., [10, 11, 12, 19]] = True
    segment_mask = np.concatenate([np.ones((rows, 1), bool), even], axis=1)
    lengths = generator.integers(2, LETTERS + 1, (rows, SEGMENTS))
    shape = (rows, SLOTS, VIEWS)
    intrinsics = np.array([[16.0, 0, 8], [0, 16, 8], [0, 0, 1]])
    extrinsics = np.eye(4)
    extrinsics[2, 3] = 1.0
    return EventBatch(
        frames=generator.integers(0, 256, (rows, SLOTS, 4, VIEWS, SIZE, SIZE, 3), np.uint8),
        frame_segment_ids=frame_ids,
        frame_positions=positions,
        frame_times=(positions * 0.2).astype(np.float32),
        frame_mask=frame_ids > 0,
        observed_mask=(frame_ids > 0) & (positions == 0),
        view_mask=np.ones(shape, bool),
        border_mask=np.ones((*shape, CELLS, CELLS), bool),
        intrinsics=np.broadcast_to(intrinsics, (*shape, 3, 3)).astype(np.float32),
        extrinsics=np.broadcast_to(extrinsics, (*shape, 4, 4)).astype(np.float32),
        camera_mask=np.ones(shape, bool),
        effectors=generator.uniform(-0.3, 0.3, (rows, SLOTS, 4, 2, 3)).astype(np.float32),
        effector_mask=np.broadcast_to((frame_ids > 0)[..., None, None], (rows, SLOTS, 4, 2)).copy(),
        actions=generator.uniform(-1, 1, (rows, ACTIONS, 26)).astype(np.float32),
        action_segment_ids=action_ids,
        action_positions=action_positions.astype(np.int32),
        action_frames=np.where(action_ids > 0, action_positions // STEPS_A_LATENT + 1, 0).astype(np.int32),
        action_times=((action_positions + 1) * 0.05).astype(np.float32),
        action_mask=action_ids > 0,
        dof_mask=dof & segment_mask[..., None],
        state=np.where(dof, generator.uniform(-1, 1, dof.shape), 0).astype(np.float32),
        text=generator.integers(3, 259, (rows, SEGMENTS, LETTERS)).astype(np.int32),
        text_mask=(np.arange(LETTERS) < lengths[..., None]) & segment_mask[..., None],
        told_event=segment_mask,
        segment_mask=segment_mask,
        anchor_positions=np.zeros((rows, SEGMENTS), np.int32),
        event_steps=np.concatenate([first, second], axis=1).astype(np.int32),
        truncated=np.zeros((rows, SEGMENTS), bool),
        event_rows=np.where(segment_mask, 0, -1).astype(np.int32),
    )


PROMPT, CAPTION, TRACE, NOTES = 8, 4, 7, 6


def random_plan_batch(seed: int, rows: int = 2) -> PlanBatch:
    """Moments with texts of random lengths; the last row is without pictures, as a plan in words is."""
    generator = np.random.default_rng(seed)

    def tokens(length: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        mask = np.arange(length) < generator.integers(2, length + 1, (rows, 1))
        return np.where(mask, generator.integers(3, most, mask.shape), 0).astype(np.int32), mask

    recorded = np.arange(rows) < rows - 1
    dof = np.zeros((rows, 26), bool)
    dof[:, [10, 11, 12, 19]] = recorded[:, None]
    trace, trace_mask = tokens(TRACE, 300)
    return PlanBatch(
        generator.integers(0, 256, (rows, VIEWS, SIZE, SIZE, 3), np.uint8),
        np.repeat(recorded[:, None], VIEWS, 1),
        np.where(dof, generator.uniform(-1, 1, dof.shape), 0).astype(np.float32),
        dof,
        *tokens(PROMPT, 300),
        *tokens(CAPTION, 300),
        np.ones(rows, bool),
        trace,
        trace_mask,
        trace_mask & (recorded[:, None] | (np.arange(TRACE) != 1)),
        *tokens(NOTES, 300),
        *tokens(LETTERS, 259),
        *tokens(LETTERS, 259),
        np.where(recorded, generator.integers(1, 30, rows), 1).astype(np.float32),
        recorded,
        np.where(recorded, np.arange(rows), -1).astype(np.int32),
        np.ones(rows, bool),
    )

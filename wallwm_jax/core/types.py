"""The values that cross module borders: shapes, units, ranges and frames of reference.

This file imports neither jax nor flax, so that `data` can fill these types without them. `EventBatch` is a
`NamedTuple` and therefore a pytree for jax without being registered.

Letters in the shapes: B rows, F latent frame slots of a row, R raw frames of a latent frame (the codec's temporal
compression), V views, H x W pixels, h x w latent cells, A action slots of a row, S event segments of a row,
L text tokens, D = 26 unified degrees of freedom, T episode frames.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

UNIFIED_DIMENSION = 26
"""Left arm xyz 3 + rotation 6 + gripper 1, right arm the same 10, base 3, lift 1, head 2."""

LEFT_ARM, RIGHT_ARM = slice(0, 10), slice(10, 20)
ARMS = (LEFT_ARM, RIGHT_ARM)
BASE, LIFT, HEAD = slice(20, 23), slice(23, 24), slice(24, 26)
POSITION, ROTATION, GRIPPER = slice(0, 3), slice(3, 9), slice(9, 10)
"""Parts of one arm's ten numbers: metres in the world frame (x forward, y left, z up), the first two columns of the
rotation matrix, and the gripper from 0 (closed) to 1 (open)."""

CAPTION_LEVELS = ("task", "subtask", "action", "segment", "human")


@dataclasses.dataclass(frozen=True)
class Caption:
    """A description of the frames [start, end) at one caption level."""

    level: str
    start: int
    end: int
    text: str


@dataclasses.dataclass(frozen=True)
class Event:
    """One nameable piece of behaviour. Frame `start` is its anchor; frame `end` (the next event's anchor) its last
    pose, or the episode's last frame if `end` equals the number of frames."""

    start: int
    end: int
    caption: str
    verb: str
    object: str
    target: str = ""
    """Where a thing is brought; empty where the event has no such place, or nobody noted it."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One recorded episode in the unified layout. Frames are decoded on demand by the reader that made it."""

    dataset: str
    index: int
    fps: float
    views: tuple[str, ...]
    state: Float[np.ndarray, "T 26"]
    action: Float[np.ndarray, "T 26"]
    dof_mask: Bool[np.ndarray, "26"]
    timestamps: Float[np.ndarray, "T"]
    embodiment: str
    source: str
    confidence: float
    task: str
    captions: tuple[Caption, ...]
    events: tuple[Event, ...]
    intrinsics: Float[np.ndarray, "T V 3 3"] | None = None
    """Pixels."""
    extrinsics: Float[np.ndarray, "T V 4 4"] | None = None
    """World to camera, OpenCV axes, metres."""


class Observation(NamedTuple):
    """What a policy sees at one control step."""

    views: UInt8[np.ndarray, "V H W 3"]
    view_mask: Bool[np.ndarray, "V"]
    state: Float[np.ndarray, "26"]
    """Unified layout, metres and radians, world frame (not normalised)."""
    dof_mask: Bool[np.ndarray, "26"]


class ActionChunk(NamedTuple):
    """A trajectory of absolute unified poses, one a control step."""

    actions: Float[np.ndarray, "A 26"]
    dof_mask: Bool[np.ndarray, "26"]
    step_mask: Bool[np.ndarray, "A"]
    control_hz: float


class EventBatch(NamedTuple):
    """Rows of packed events. Every mask is required; True marks what is real.

    A row holds up to S events. Event s owns the latent slots with `frame_segment_ids == s + 1` and the action slots
    with `action_segment_ids == s + 1`; id 0 is padding. Its *observed* slots are given clean; the last of them, the
    anchor, ends with the current observation (its last raw frame). In an event-centric window the anchor is alone, at
    position 0, and holds the keyframe R times; in an observation-centred one M slots of history stand before it.
    """

    frames: UInt8[np.ndarray, "B F R V H W 3"] | None
    """None in a batch that was built from latents alone."""
    frame_segment_ids: Int[np.ndarray, "B F"]
    frame_positions: Int[np.ndarray, "B F"]
    """The latent frame's index in its window, from 0."""
    frame_times: Float[np.ndarray, "B F"]
    """Seconds since the anchor of the slot's last raw frame; negative in the history."""
    frame_mask: Bool[np.ndarray, "B F"]
    observed_mask: Bool[np.ndarray, "B F"]
    """True: the slot is given clean, never denoised, and no part of the video loss."""
    view_mask: Bool[np.ndarray, "B F V"]
    border_mask: Bool[np.ndarray, "B F V h w"]
    """False on latent cells that touch out-of-frame or synthetic black regions."""
    intrinsics: Float[np.ndarray, "B F V 3 3"]
    """Pixels of the H x W image, at the slot's last raw frame."""
    extrinsics: Float[np.ndarray, "B F V 4 4"]
    """World to camera, OpenCV axes, metres, at the slot's last raw frame."""
    camera_mask: Bool[np.ndarray, "B F V"]
    """Whether intrinsics and extrinsics are known; an unknown camera is never masked out by sight cones."""
    effectors: Float[np.ndarray, "B F R 2 3"]
    """Positions of the left and right end effector at every raw frame, metres, world frame: labels of waypoints."""
    effector_mask: Bool[np.ndarray, "B F R 2"]
    """Whether that is known."""
    actions: Float[np.ndarray, "B A 26"]
    """Targets relative to the anchor's pose, normalised to [-1, 1]; slot k is commanded k steps after the anchor."""
    action_segment_ids: Int[np.ndarray, "B A"]
    action_positions: Int[np.ndarray, "B A"]
    """Step index k after the anchor, from 0."""
    action_frames: Int[np.ndarray, "B A"]
    """Position in its window of the latent frame that step k lies in, anchor position + floor(k / K_p) + 1
    for K_p control steps a latent frame (eqs. 10, 11)."""
    action_times: Float[np.ndarray, "B A"]
    """Seconds since the anchor: (k + 1) / control rate."""
    action_mask: Bool[np.ndarray, "B A"]
    dof_mask: Bool[np.ndarray, "B S 26"]
    state: Float[np.ndarray, "B S 26"]
    """State at the anchor, normalised to [-1, 1], zero where `dof_mask` is False."""
    text: Int[np.ndarray, "B S L"]
    text_mask: Bool[np.ndarray, "B S L"]
    told_event: Bool[np.ndarray, "B S"]
    """Whether the text is the caption of the event under way; False where it is the task's instruction, which names
    much that is not due, and in empty segments."""
    segment_mask: Bool[np.ndarray, "B S"]
    anchor_positions: Int[np.ndarray, "B S"]
    """Latent position of the anchor slot: M, which is 0 in an event-centric window."""
    event_steps: Int[np.ndarray, "B S"]
    """Control steps from the anchor to the event's end (before truncation); in an observation-centred window those
    that the episode has of the chunk."""
    truncated: Bool[np.ndarray, "B S"]
    """Whether the event was longer than `max_latent_frames` allows."""
    event_rows: Int[np.ndarray, "B S"]
    """Row of the event index that filled the segment; -1 where the segment is empty or comes from no index."""
    latents: Float[np.ndarray, "B F V h w C"] | None = None
    """What the model's codec would make of `frames`, where somebody has encoded them already; None: encode `frames`."""


class PlanBatch(NamedTuple):
    """Moments of episodes as a planner sees them: pictures, the instruction, what has been done; and their labels.

    Letters: P prompt tokens, C caption tokens, R trace tokens and N notes tokens of the vision-language trunk; L tokens
    of the world model's text encoder. Masks are True on what is real.
    """

    views: UInt8[np.ndarray, "B V H W 3"]
    view_mask: Bool[np.ndarray, "B V"]
    state: Float[np.ndarray, "B 26"]
    """Normalised to [-1, 1], zero where `dof_mask` is False."""
    dof_mask: Bool[np.ndarray, "B 26"]
    prompt: Int[np.ndarray, "B P"]
    """Instruction and captions of past events; it ends with the token that asks for the next."""
    prompt_mask: Bool[np.ndarray, "B P"]
    caption: Int[np.ndarray, "B C"]
    """The event under way or about to begin, or that there is none any more; and an end token."""
    caption_mask: Bool[np.ndarray, "B C"]
    asked_mask: Bool[np.ndarray, "B"]
    """False where the prompt is blank: nobody could say from it what comes next, so caption and trace are no labels."""
    trace: Int[np.ndarray, "B R"]
    trace_mask: Bool[np.ndarray, "B R"]
    trace_label_mask: Bool[np.ndarray, "B R"]
    """False on spans that nobody has labelled."""
    notes: Int[np.ndarray, "B N"]
    notes_mask: Bool[np.ndarray, "B N"]
    text: Int[np.ndarray, "B L"]
    """The caption in the text encoder's tokens; none when all is done."""
    text_mask: Bool[np.ndarray, "B L"]
    canonical: Int[np.ndarray, "B L"]
    """The event's canonical caption in the text encoder's tokens."""
    canonical_mask: Bool[np.ndarray, "B L"]
    remaining: Float[np.ndarray, "B"]
    """Control steps to the event's end; 1 where `remaining_mask` is False."""
    remaining_mask: Bool[np.ndarray, "B"]
    event_rows: Int[np.ndarray, "B"]
    """Row of the event index; -1 for a plan without an episode."""
    row_mask: Bool[np.ndarray, "B"]


TrainingBatch = EventBatch | PlanBatch
"""What a stage learns from."""

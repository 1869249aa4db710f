"""Abstract batches are those that loaders fill."""

import ml_collections
import pytest

from tests.train.synthetic import (
    CAPTION,
    LETTERS,
    NOTES,
    PROMPT,
    SEGMENTS,
    SLOTS,
    TRACE,
    VIEWS,
    random_batch,
    random_plan_batch,
)
from wallwm_jax.models.variants import variant
from wallwm_jax.plan.batches import abstract_batch
from wallwm_jax.train.families import stage_of


@pytest.mark.parametrize("name, make", [("video", random_batch), ("backbone", random_plan_batch)])
def test_shapes_and_dtypes_are_those_of_a_batch(name, make):
    """Field by field, for both families."""
    planning = {"rows": 3, "prompt_length": PROMPT, "caption_length": CAPTION, "trace_length": TRACE}
    data = {"rows": 3, "row_frames": SLOTS, "segments": SEGMENTS, "frame_stride": 1, "max_latent_frames": SLOTS}
    config = ml_collections.ConfigDict(
        {
            "data": {**data, "text_length": LETTERS, "spatial_compression": 4},
            "planning": {**planning, "notes_length": NOTES},
        }
    )
    found = abstract_batch(stage_of(name), config, variant("micro"), VIEWS, None)
    for field, expected in make(0, rows=3)._asdict().items():
        leaf = getattr(found, field)
        if expected is None:  # latents are encoded in the step
            assert leaf is None, field
            continue
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype), field

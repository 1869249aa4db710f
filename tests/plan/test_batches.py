"""Abstract batches are those that loaders fill; what has no codec is planned on latents."""

import jax.numpy as jnp
import ml_collections
import numpy as np
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
from wallwm_jax.nn.video_codec import VideoCodec
from wallwm_jax.plan.batches import abstract_batch
from wallwm_jax.plan.stand_in import LatentStandIn, with_codec
from wallwm_jax.train.stages import stage_of


@pytest.mark.parametrize("name, make", [("video", random_batch), ("backbone", random_plan_batch)])
def test_shapes_and_dtypes_are_those_of_a_batch(name, make):
    """Field by field, for both sides."""
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


def test_variants_without_a_codec_are_planned_on_latents():
    """They get one of their own compression and channels; "wan2.2-5b" keeps its own, which has those of Wan2.2's."""
    row = with_codec(variant("wan2.1-14b"), spatial_compression=8)
    assert isinstance(row.codec, VideoCodec)
    frames = jnp.arange(2 * 4 * 16 * 24 * 3, dtype=jnp.float32).reshape(2, 4, 16, 24, 3)
    latents = row.codec.encode_groups(frames)
    assert latents.shape == (2, 2, 3, 16)
    assert jnp.allclose(latents[0, 0, 0], frames[0, :, :8, :8].mean())
    own = variant("wan2.2-5b")
    assert with_codec(own, 16) is own
    assert (own.codec.channels, own.codec.spatial_compression, own.codec.group) == (48, 16, 4)


def test_the_stand_in_is_a_codec_of_cells():
    """Frames of even grey cells come back as they were (1e-5: fp32 means of 192 numbers), whatever its channels."""
    cells = np.random.default_rng(0).uniform(-1, 1, (2, 1, 3, 2, 1)).astype("f4")
    frames = np.broadcast_to(cells.repeat(4, 2).repeat(4, 3), (2, 4, 12, 8, 3))
    codec = LatentStandIn(channels=5, spatial_compression=4)
    latents = codec.encode_groups(jnp.asarray(frames))
    assert latents.shape == (2, 3, 2, 5)
    np.testing.assert_allclose(codec.decode_groups(latents), frames, atol=1e-5)

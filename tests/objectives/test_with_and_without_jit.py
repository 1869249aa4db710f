"""The pure functions under the losses say the same compiled and not compiled (chex's variants)."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from wallwm_jax.objectives import cosine_transform, flow
from wallwm_jax.objectives.caption_drop import CaptionDrop, drop_captions
from wallwm_jax.objectives.segments import masked_mean, of_segments, rows_of_segments

IDS = jnp.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 0, 0]])
POSITIONS = jnp.array([[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 0, 0]])
both = chex.variants(with_jit=True, without_jit=True)


class PathTest(chex.TestCase):
    """Flow matching (WALL-WM eq. 7)."""

    def setUp(self):
        super().setUp()
        self.clean, self.noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)), jnp.float32)

    @both
    def test_the_ends_of_the_path(self):
        """Time 0 is the data and time 1 the noise; the velocity leads from any point back to the data."""
        interpolate, clean_of = self.variant(flow.interpolate), self.variant(flow.clean_from_velocity)
        chex.assert_trees_all_close(interpolate(self.clean, self.noise, 0.0), self.clean)
        chex.assert_trees_all_close(interpolate(self.clean, self.noise, 1.0), self.noise)
        velocity = self.variant(flow.velocity)(self.clean, self.noise)
        chex.assert_trees_all_close(
            clean_of(interpolate(self.clean, self.noise, 0.3), velocity, 0.3), self.clean, atol=1e-6
        )

    @both
    def test_the_weight_of_the_clean_end(self):
        """t^2; of the velocity 1."""
        times = jnp.linspace(0.0, 1.0, 5)
        chex.assert_trees_all_close(self.variant(functools.partial(flow.weight, regressed="clean"))(times), times**2)
        chex.assert_trees_all_close(self.variant(flow.weight)(times), jnp.ones(5))

    @both
    def test_times_depend_on_the_key_alone(self):
        """They are drawn in (0, 1), and are the bits of the plain call: no draw changes when a step is compiled."""
        for sampling in flow.TIME_SAMPLINGS:
            draw = functools.partial(flow.sample_time, shape=(4, 3), sampling=sampling, shift=3.0)
            found = self.variant(draw)(jax.random.key(5))
            chex.assert_trees_all_close(found, draw(jax.random.key(5)), rtol=1e-6)
            assert bool(((found > 0) & (found < 1)).all())


class SegmentsTest(chex.TestCase):
    """Values of events that lie packed in one row."""

    @both
    def test_every_slot_reads_its_own_event(self):
        """Numbers and vectors; slots of padding read the first event."""
        values = jnp.array([[10.0, 20.0], [30.0, 40.0]])
        expected = jnp.array([[10.0, 10, 10, 20, 20, 10], [30, 40, 40, 40, 30, 30]])
        chex.assert_trees_all_equal(self.variant(of_segments)(values, IDS), expected)
        chex.assert_trees_all_equal(self.variant(rows_of_segments)(values[..., None], IDS), expected[..., None])

    @both
    def test_what_is_masked_is_not_in_the_mean(self):
        """Whatever stands there, NaN included; an empty mask has the mean 0."""
        values, mask = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
        mean = self.variant(masked_mean)
        assert float(mean(values, mask)) == 2.0
        assert float(mean(values, jnp.zeros(3, bool))) == 0.0

    @both
    def test_the_cosine_basis_is_orthonormal(self):
        """Over the valid slots of every event, and zero elsewhere."""
        basis, _ = self.variant(cosine_transform.packed_basis)(IDS, POSITIONS, IDS > 0)
        identity = jnp.eye(6) * (IDS > 0)[:, :, None]
        chex.assert_trees_all_close(basis @ basis.swapaxes(1, 2), identity, atol=1e-5)

    @both
    def test_captions_are_dropped_whole(self):
        """An event keeps all tokens of its caption or none, and which is the key's affair alone."""
        mask, steps = jnp.ones((50, 2, 3), bool), jnp.broadcast_to(jnp.array([10, 400]), (50, 2))
        drop = functools.partial(drop_captions, settings=CaptionDrop())
        kept = self.variant(drop)(jax.random.key(0), mask, steps)
        chex.assert_trees_all_equal(kept, drop(jax.random.key(0), mask, steps))
        chex.assert_trees_all_equal(kept.all(-1), kept.any(-1))

"""The time grid and Euler's method on flows whose solution is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wallwm_jax.core.errors import InputError
from wallwm_jax.infer.solvers import euler, split_steps, time_grid
from wallwm_jax.objectives.anchor import AnchorSchedule


def test_grid_follows_the_shift():
    """Step 45 of 50: t = 0.36 (0.357) with a shift of 5 and 0.1 without; the ends are 1 and 0."""
    assert time_grid(50, 5.0)[45] == pytest.approx(5 * 0.1 / (1 + 4 * 0.1), abs=1e-6)
    assert time_grid(50)[45] == pytest.approx(0.1, abs=1e-6)
    assert time_grid(7, 5.0)[0] == 1.0 and time_grid(7, 5.0)[-1] == 0.0


@settings(max_examples=20)
@given(steps=st.integers(1, 60), shift=st.floats(1, 8), data=st.data())
def test_anchor_lies_where_training_puts_it(steps, shift, data):
    """Both parts of the grid meet at the time at which the action objective reads the video tower."""
    anchor = data.draw(st.integers(0, steps))
    expected = AnchorSchedule(anchor_step=anchor, denoise_steps=steps, shift=shift).anchor_time
    assert time_grid(2, shift, 0, anchor / steps)[-1] == pytest.approx(expected, abs=1e-6)
    assert time_grid(2, shift, anchor / steps, 1)[0] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=20)
@given(steps=st.integers(2, 60), shift=st.floats(1, 8), data=st.data())
def test_grid_in_two_parts_is_the_grid(steps, shift, data):
    anchor = data.draw(st.integers(0, steps))
    before, after = split_steps(steps, anchor, steps)
    assert (before, after) == (anchor, steps - anchor)
    first, second = time_grid(before, shift, 0, anchor / steps), time_grid(after, shift, anchor / steps, 1)
    np.testing.assert_allclose(np.concatenate([first, second[1:]]), time_grid(steps, shift), atol=1e-6)


def test_few_steps_still_reach_the_anchor():
    """Fewer steps than training's schedule keep at least one on each side; anchor 0 is pure noise."""
    assert split_steps(4, 45, 50) == (4, 1)
    assert split_steps(4, 1, 50) == (1, 3)
    assert split_steps(4, 0, 50) == (0, 4)
    with pytest.raises(InputError, match="anchor_step"):
        split_steps(4, 51, 50)


def test_euler_is_exact_on_a_straight_flow():
    """The velocity of one straight path is constant, so any grid lands on the data."""
    data, noise = jnp.arange(4.0), jnp.ones(4)
    result = euler(lambda _, __: noise - data, noise, time_grid(3, 5.0))
    np.testing.assert_allclose(result, data, atol=1e-6)


def test_euler_converges_on_a_curved_flow():
    """dz/dt = z from t = 1 to 0 ends at z exp(-1), with an error that falls like 1 / steps."""
    errors = [abs(float(euler(lambda z, _: z, jnp.array(1.0), time_grid(n))) - np.exp(-1)) for n in (50, 100)]
    assert errors[1] < 0.003 and errors[0] / errors[1] == pytest.approx(2, rel=0.05)


def test_no_steps_leave_the_sample():
    assert euler(lambda z, _: z, jnp.array(2.0), time_grid(0, 5.0, 0.5, 0.5)) == 2.0

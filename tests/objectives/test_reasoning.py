"""The language side's losses: only labels count, each term by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.synthetic import LETTERS, random_plan_batch
from wallwm_jax.models.initialise import init_reasoner
from wallwm_jax.models.reasoner import Reasoner
from wallwm_jax.models.reasoner_variants import reasoner_variant
from wallwm_jax.models.variants import variant
from wallwm_jax.objectives import reasoning

OBJECTIVES = {
    "backbone": (reasoning.backbone_loss, reasoning.BackboneSettings()),
    "conditioner": (reasoning.conditioner_loss, reasoning.ConditionerSettings()),
    "staircase": (reasoning.staircase_loss, reasoning.StaircaseSettings()),
}
KEY = jax.random.key(0)


@functools.cache
def compiled(name):
    """A jitted objective on the smallest model, with gradients; its parameters."""
    model = Reasoner(reasoner_variant("micro"), variant("micro"), 2, LETTERS)
    parameters = init_reasoner(model, jax.random.key(0), random_plan_batch(0))[0]
    loss, settings = OBJECTIVES[name]
    program = jax.jit(jax.value_and_grad(lambda tree, batch: loss(model, tree, batch, KEY, settings), has_aux=True))
    return lambda batch: program(parameters, batch)


def equal(found, expected):
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_masked_changes_neither_loss_nor_gradient(name):
    """Tokens in the padding, pictures that are not there, spans, times and whole rows without label: not by a bit."""
    batch = random_plan_batch(1)
    (loss, metrics), gradient = compiled(name)(batch)
    for field in ("prompt", "caption", "trace", "notes", "text", "canonical"):
        mask = getattr(batch, f"{field}_mask")
        batch = batch._replace(**{field: np.where(mask, getattr(batch, field), 5).astype(np.int32)})
    shown = batch.view_mask[..., None, None, None]
    batch = batch._replace(
        views=np.where(shown, batch.views, 200).astype(np.uint8),
        state=np.where(batch.dof_mask, batch.state, 9.0).astype(np.float32),
        remaining=np.where(batch.remaining_mask, batch.remaining, 77).astype(np.float32),
    )
    (again, found), same = compiled(name)(batch)
    assert float(loss) == float(again)
    equal(found, metrics)
    equal(same, gradient)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_padded_row_is_no_row(name):
    """A row that is not in use is out of every mean and of the count."""
    batch = random_plan_batch(2)
    alone = batch._replace(row_mask=np.array([True, False]))
    other = jax.tree.map(lambda leaf: np.concatenate([leaf[:1], leaf[:1]]), batch)
    other = other._replace(row_mask=np.array([True, False]))
    (loss, metrics), _ = compiled(name)(alone)
    (again, _), _ = compiled(name)(other)
    np.testing.assert_allclose(loss, again, rtol=1e-6)
    assert metrics["events"] == 1


def test_a_blank_prompt_asks_for_nothing():
    """Its caption is worth aligning, but nobody could have known that it comes next."""
    batch = random_plan_batch(3)
    blank = batch._replace(asked_mask=np.zeros(2, bool))
    (_, metrics), _ = compiled("conditioner")(blank)
    assert metrics["next_loss"] == 0 and metrics["align_loss"] > 0 and metrics["time_loss"] > 0
    (_, metrics), _ = compiled("staircase")(blank)
    assert metrics["trace_loss"] == metrics["align_loss"] == metrics["presence_loss"] == 0


def test_the_first_caption_token_is_predicted_by_the_last_of_the_prompt():
    """Wherever its padding begins."""
    scores = jnp.arange(2 * 7, dtype=jnp.float32).reshape(2, 7, 1)
    mask = jnp.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    found = reasoning.caption_predictors(scores, mask, 3)[..., 0]
    np.testing.assert_array_equal(found, [[3, 4, 5], [8, 11, 12]])


def test_spans_without_label_are_left_out():
    """Only the labelled tokens of a trace are counted, right or wrong."""
    scores = np.zeros((1, 4, 5), np.float32)
    scores[0, 0, 2] = scores[0, 2, 4] = 50.0
    tokens = np.array([[1, 2, 3, 4]])
    scores, tokens = jnp.asarray(scores), jnp.asarray(tokens)
    loss, right = reasoning.next_token_loss(scores, tokens, jnp.array([[True, True, False, True]]))
    assert float(right) == 1.0 and float(loss) < 1e-6
    loss, right = reasoning.next_token_loss(scores, tokens, jnp.ones((1, 4), bool))
    np.testing.assert_allclose([loss, right], [np.log(5) / 3, 2 / 3], rtol=1e-5)

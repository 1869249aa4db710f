"""What a loader hands to the step is checked field by field."""

import numpy as np
import pytest

from tests.train.synthetic import random_batch, random_plan_batch
from tests.train.toy import TOY, toy_data
from wallwm_jax.core.errors import RunError
from wallwm_jax.train.batch_checks import check_batch, checked
from wallwm_jax.train.reasoner import MOMENTS
from wallwm_jax.train.run import StageData
from wallwm_jax.train.world_action import EVENTS


def broken(batch, name, index, value):
    array = np.array(getattr(batch, name))
    array[index] = value
    return batch._replace(**{name: array})


def test_batches_as_they_should_be_pass():
    """Both kinds, of any number of rows."""
    for rows in (1, 3):
        check_batch(random_batch(0, rows), EVENTS)
        check_batch(random_plan_batch(0, rows), MOMENTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: broken(batch, "actions", (0, 0, 3), np.nan), "field actions: .*finite"),
        (lambda batch: broken(batch, "state", (0, 0, 3), np.inf), "field state: .*finite"),
        (lambda batch: batch._replace(actions=batch.actions.astype(np.float64)), "field actions: .*float64"),
        (lambda batch: batch._replace(text=batch.text.astype(np.int64)), "field text: .*int64"),
        (lambda batch: batch._replace(frame_mask=batch.frame_mask[:, 1:]), "field frame_mask: .*shape"),
        (lambda batch: batch._replace(state=batch.state[..., :20]), "field state: .*shape"),
        (lambda batch: batch._replace(text_mask=batch.text_mask[..., None]), "field text_mask: .*rank"),
        (lambda batch: random_plan_batch(0), "PlanBatch"),
    ],
)
def test_a_batch_that_is_not_is_named(change, message):
    """Numbers that are not finite, another dtype, a size that other fields do not have, another rank, another kind."""
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_batch(change(random_batch(0)), EVENTS)


def test_training_ends_at_the_bad_batch_in_one_line():
    """The batches before it are handed on, the message says which it is and what is wrong, and the source is closed; a
    held-out batch is checked before anything is trained."""
    closed = []

    def batches(step):
        try:
            yield random_batch(0)
            yield broken(random_batch(1), "actions", (0, 0, 3), np.nan)
        finally:
            closed.append(step)

    taken, reader = [], checked(StageData(batches, toy_data().heldout), TOY).train(4)
    with pytest.raises(RunError, match=r"^stage toy: the batch of step 6 is not .*field actions") as told:
        for batch in reader:
            taken.append(batch)
    assert len(taken) == 1 and closed == [4] and "\n" not in str(told.value)
    with pytest.raises(RunError, match="the batch 1 held out"):
        checked(StageData(batches, (broken(random_batch(1), "state", 0, np.nan),)), TOY)

"""Traces say what is known, and where nothing is known they say that."""

from hypothesis import given
from hypothesis import strategies as st

from wallwm_jax.data.traces import Moment, canonical_captions, rounded_percent, write_notes, write_trace


def test_a_trace_names_past_present_and_next():
    """Nothing before the first event, nothing after the last; progress to ten percent."""
    trace = write_trace(Moment("", "grasp the puck", 0.44, "lift the puck"))
    assert trace.text == "done: nothing. now: grasp the puck, 40 %. next: lift the puck." and trace.missing == ()
    assert write_notes(Moment("reach", "grasp", 1.0, "")) == "reach; grasp; 100; nothing"


@given(*[st.one_of(st.none(), st.sampled_from(["", "reach for it", "press"]))] * 3, st.one_of(st.none(), st.just(0.3)))
def test_missing_labels_are_spans_of_question_marks(done, now, following, progress):
    """As many spans as labels are missing, each of exactly one mark, and the text around them does not change."""
    trace = write_trace(Moment(done, now, progress, following))
    assert len(trace.missing) == [done, now, progress, following].count(None)
    assert all(trace.text[start:end] == "?" for start, end in trace.missing)
    assert trace.text.count("?") == len(trace.missing) and trace.text.startswith("done: ") and trace.text[-1] == "."
    assert "?" not in write_notes(Moment(done, now, progress, following))


def test_progress_is_kept_within_its_range():
    """Rounded to the nearest step, half to even, never outside 0 to 100."""
    assert [rounded_percent(value) for value in (-1, 0, 0.04, 0.06, 0.5, 0.96, 2)] == [0, 0, 0, 10, 50, 100, 100]


def test_the_canonical_caption_is_the_most_frequent():
    """Of equals the first in the alphabet, so that the order of the events does not matter."""
    reach, press = ("reach", "puck", ""), ("press", "button", "")
    events = [(reach, "go to it"), (reach, "approach it"), (press, "push it"), (press, "press it"), (press, "push it")]
    expected = {reach: "approach it", press: "push it"}
    assert canonical_captions(events) == canonical_captions(reversed(events)) == expected

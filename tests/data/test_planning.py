"""Moments: a function of (seed, i), with the labels that the annotations give."""

import dataclasses
import json

import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.data import text, tokenizer
from wallwm_jax.data.planning import (
    Moment,
    Plan,
    PlanLoader,
    PlannedEvent,
    PlanSettings,
    episode_plans,
    read_plans,
    surprises,
)

SETTINGS = PlanSettings(rows=8, prompt_length=64, text_share=0.5, blank_share=0.25)
LINE = {"instruction": "press the button", "events": [{"caption": "press it", "verb": "press", "object": "button"}]}


@pytest.fixture(scope="module")
def loader(curated):
    return PlanLoader(curated, SETTINGS, 24, seed=3, split="train")


def test_a_batch_is_a_function_of_seed_and_step(curated, loader):
    """Asked for in any order, by another loader, the same arrays; another seed gives others."""
    later = loader[5]
    again = PlanLoader(curated, SETTINGS, 24, seed=3, split="train")
    for found, expected in zip(again[5], later, strict=True):
        np.testing.assert_array_equal(found, expected)
    other = PlanLoader(curated, SETTINGS, 24, seed=4, split="train")[5]
    assert any(not np.array_equal(found, expected) for found, expected in zip(other, later, strict=True))


def test_processes_share_a_batch(curated, loader):
    """The shares of two and of four processes, in their order, are the batch of one; rows that do not divide are
    refused."""
    for count in (2, 4):
        share = {"process_count": count, "seed": 3, "split": "train"}
        shares = [PlanLoader(curated, SETTINGS, 24, process_index=index, **share)[5] for index in range(count)]
        for expected, *found in zip(loader[5], *shares, strict=True):
            np.testing.assert_array_equal(np.concatenate(found), expected)
    with pytest.raises(InputError, match=r"planning\.rows: found 8, expected a multiple of the 3 processes"):
        PlanLoader(curated, SETTINGS, 24, seed=3, split="train", process_count=3)


def test_labels_are_those_of_the_moment(curated, loader):
    """Picture, state, caption, remaining steps and index row belong to one frame of one event of the training split."""
    columns, tokens = curated.index.columns, loader.writer.tokenizer
    batch, moments = loader[2], [loader.draw(i) for i in range(16, 24)]
    assert any(moment.event for moment in moments)
    for row, moment in enumerate(moments):
        if moment.event is None:
            continue
        index, episode = int(batch.event_rows[row]), moment.plan.episode
        assert columns["split"][index] == "train" and columns["start"][index] <= moment.frame < columns["end"][index]
        assert batch.remaining[row] == columns["end"][index] - moment.frame and batch.remaining_mask[row]
        np.testing.assert_array_equal(batch.views[row], curated.frame_map(episode)[moment.frame])
        caption = columns["caption"][index]
        assert tokens.decode(batch.caption[row]) == caption == text.decode(batch.text[row])
        assert batch.asked_mask[row] == (not moment.blank)
        said = tokens.decode(batch.prompt[row])
        assert (said == "") if moment.blank else said.startswith(moment.plan.instruction)
        assert f"now: {text.decode(batch.canonical[row])}, " in tokens.decode(batch.trace[row])
    assert {moment.blank for moment in (loader.draw(i) for i in range(40))} == {True, False}


def prompt_of(writer, moment):
    """Ids of a moment's prompt, without padding."""
    batch = writer.batch([moment])
    return batch.prompt[0][batch.prompt_mask[0]].tolist()


def test_the_prompt_remembers_the_latest_events_in_order(loader):
    """Not the one under way, and no more than it is told to."""
    plan = next(plan for plan in loader.plans if len(plan.events) > 2)
    moment = Moment(plan, 2, plan.events[2].start)
    tokens, writer = loader.writer.tokenizer, loader.writer
    both = [tokens.encode(event.caption) for event in plan.events[:2]]
    ids = prompt_of(writer, moment)
    end = [*both[0], tokenizer.DONE, *both[1], tokenizer.DONE, tokenizer.NEXT]
    assert ids == [tokenizer.INSTRUCTION, *tokens.encode(plan.instruction), tokenizer.DONE, *end]
    writer.settings = dataclasses.replace(SETTINGS, memory_events=1)
    ids = prompt_of(writer, moment)
    assert ids[-len(both[1]) - 3 :] == [tokenizer.DONE, *both[1], tokenizer.DONE, tokenizer.NEXT]
    writer.settings = SETTINGS


def test_when_all_is_done_nothing_comes_next(loader):
    """The frame after the last event: the caption says so, and there is neither a text to encode nor time left."""
    plan, tokens = loader.plans[0], loader.writer.tokenizer
    batch = loader.writer.batch([loader.writer.end(plan)])
    assert tokens.decode(batch.caption[0]) == "nothing" and not batch.text_mask.any() and not batch.canonical_mask.any()
    assert not batch.remaining_mask.any() and batch.asked_mask.all() and batch.view_mask.all()
    assert tokens.decode(batch.trace[0]).endswith("now: nothing, 100 %. next: nothing.")
    assert {loader.draw(i).event is None for i in range(200)} == {True, False}


def test_plans_in_words_have_no_picture_and_no_time(curated, loader):
    """Masked views, state and remaining time, and a trace whose progress is no label."""
    plan = Plan(-1, "press it twice", (PlannedEvent("press it", ("press", "box", "")),) * 2)
    batch = loader.writer.batch([Moment(plan, 1, 0)])
    assert not batch.view_mask.any() and not batch.dof_mask.any() and not batch.remaining_mask.any()
    assert batch.asked_mask.all() and batch.row_mask.all() and batch.event_rows[0] == -1
    missing = batch.trace_mask & ~batch.trace_label_mask
    assert missing.sum() == 1 and (batch.trace[missing] == tokenizer.UNKNOWN).all()


def test_plans_in_words_are_read_and_drawn(curated, tmp_path):
    """Beside the dataset they make up their share of the draws; a wrong line is named."""
    path = tmp_path / "plans.jsonl"
    path.write_text(json.dumps(LINE) + "\n")
    (plan,) = read_plans(path)
    assert plan.instruction == "press the button" and plan.events[0].name == ("press", "button", "")
    path.write_text(json.dumps(LINE) + "\n" + json.dumps({"instruction": "x"}) + "\n")
    with pytest.raises(InputError, match=r"line 2.*events"):
        read_plans(path)
    with pytest.raises(InputError, match="missing"):
        read_plans(tmp_path / "missing.jsonl")


def test_plans_in_words_are_drawn_by_surprise():
    """After "a" comes "b" or "c", as often: log 2 each. What always follows keeps the least weight."""
    a, b, c = (PlannedEvent(name, (name, "", "")) for name in "abc")
    found = surprises([Plan(-1, "x", (a, b)), Plan(-1, "y", (a, c))])
    np.testing.assert_allclose(found, [0.05, np.log(2), 0.05, 0.05, np.log(2), 0.05])


def test_every_event_of_an_episode_is_in_its_plan(curated):
    """In order, each split by itself, under the episode's own task."""
    plans = episode_plans(curated, "train")
    counted = sum(len(plan.events) for plan in plans)
    assert counted == len(curated.index.select("train"))
    for plan in plans:
        starts = [event.start for event in plan.events]
        assert starts == sorted(starts) and plan.instruction


def test_bad_settings_and_long_texts_are_refused_at_start_up(curated):
    """Shares outside 0 to 1, lengths of 0; a prompt that does not fit is named before anything is drawn."""
    for change, match in (
        ({"start_share": 1.5}, "start_share"),
        ({"rows": 0}, "rows"),
        ({"memory_events": -1}, "memo"),
    ):
        with pytest.raises(InputError, match=match):
            dataclasses.replace(SETTINGS, **change)
    with pytest.raises(InputError, match="prompt_length"):
        PlanLoader(curated, dataclasses.replace(SETTINGS, prompt_length=3), 24, seed=0, split="train")
    with pytest.raises(InputError, match="unknown key 'row'"):
        PlanSettings.from_config({"row": 2})

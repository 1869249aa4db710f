"""The vision-language side at run time: cached decoding, fixed programs, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.types import Observation
from wallwm_jax.data import text, tokenizer
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.planning import PlanSettings
from wallwm_jax.data.statistics import Statistics, compute_statistics
from wallwm_jax.data.tokenizer import CaptionTokenizer
from wallwm_jax.infer.reasoning import Reasoning, ReasoningSettings
from wallwm_jax.infer.request import Request
from wallwm_jax.models.initialise import init_reasoner
from wallwm_jax.models.reasoner import Reasoner
from wallwm_jax.models.reasoner_variants import reasoner_variant
from wallwm_jax.models.variants import variant

LETTERS, ROWS = 20, 2
PLANNING = PlanSettings(prompt_length=24, caption_length=6, trace_length=8, notes_length=8)
NAMES = {name: f"right_arm.{name}" for name in ("x", "y", "z", "gripper")}


def observation(seed):
    generator = np.random.default_rng(seed)
    dof = np.zeros(26, bool)
    dof[[10, 11, 12, 19]] = True
    state = np.where(dof, generator.uniform(size=26), 0).astype(np.float32)
    return Observation(generator.integers(0, 256, (2, 16, 16, 3), np.uint8), np.ones(2, bool), state, dof)


REQUESTS = [
    Request(observation(0), "press the button", ()),
    Request(observation(1), "lift the puck and press the button", ("lift it", "go on")),
    Request(observation(2), "go on", ("press the button",)),
]


@pytest.fixture(scope="module")
def reasoning():
    """The smallest vision-language side, untrained, two rows a program."""
    tokens = CaptionTokenizer.train([part for item in REQUESTS for part in (item.instruction, *item.memory)], 320)
    embodiment = Embodiment("toy", 20.0, ("front", "wrist"), "state", "action", NAMES, NAMES)
    states = np.random.default_rng(3).uniform(size=(50, 26)).astype(np.float32)
    statistics: Statistics = compute_statistics(states, states)
    model = Reasoner(reasoner_variant("micro"), variant("micro"), 2, LETTERS)
    settings = ReasoningSettings(PLANNING, LETTERS, ROWS)
    batch = Reasoning(model, {}, tokens, embodiment, statistics, settings).batch(REQUESTS[:1], ["lift it"])
    parameters = init_reasoner(model, jax.random.key(0), batch)[0]
    return Reasoning(model, parameters, tokens, embodiment, statistics, settings)


def test_decoding_equals_asking_again_after_every_token(reasoning):
    """Greedy decoding with cached keys gives the tokens that whole passes over prompt and caption so far give."""
    batch = reasoning.batch(REQUESTS[:2], ["", ""])
    found = np.asarray(reasoning._run("next", batch))
    model, parameters = reasoning._model, reasoning._parameters
    given = jax.tree.map(jnp.asarray, batch)
    prompt = batch.prompt.shape[1]
    for number in range(PLANNING.caption_length):
        shown = np.arange(PLANNING.caption_length) < number
        caption_mask = jnp.asarray(np.broadcast_to(shown, found.shape))
        asked = given._replace(caption=jnp.where(caption_mask, found, 0), caption_mask=caption_mask)
        hidden, _ = model.apply({"params": parameters}, asked, method="with_caption")
        last = hidden.shape[1] - PLANNING.caption_length - prompt + batch.prompt_mask.sum(1) - 1
        place = last if number == 0 else np.full(2, hidden.shape[1] - PLANNING.caption_length + number - 1)
        scores = model.apply({"params": parameters}, hidden[np.arange(2), place][:, None], method="caption_scores")
        np.testing.assert_array_equal(scores[:, 0].argmax(-1), found[:, number])


def test_answers_do_not_depend_on_the_company_and_compile_once(reasoning):
    """Three requests in two calls of two rows, or one by one: the same answers from four programs."""
    together = reasoning.next_events(REQUESTS)
    apart = [reasoning.next_events([item])[0] for item in REQUESTS]
    assert [item.caption for item in together] == [item.caption for item in apart]
    np.testing.assert_allclose([item.steps for item in together], [item.steps for item in apart], rtol=1e-5)
    captions = ["lift it", "go on", "press the button"]
    said = reasoning.condition_of_captions(REQUESTS, captions)
    thought = reasoning.condition_of_latents(REQUESTS)
    assert said.features.shape == thought.features.shape == (3, 1, LETTERS, 16)
    for row, caption in enumerate(captions):
        assert said.mask[row].sum() == text.token_count(caption)
    assert np.all(np.diff(thought.mask[:, 0].astype(int), axis=1) <= 0) and np.all(thought.mask[:, 0, 0])
    assert not np.any(thought.features[~thought.mask])
    assert sorted(reasoning.compiled) == ["condition", "latents", "next", "remaining"]


def test_a_blank_prompt_holds_the_question_alone(reasoning):
    """Someone else names the event: neither instruction nor memory."""
    batch = reasoning.batch([Request(observation(0), "")], ["lift it"])
    assert batch.prompt[0][batch.prompt_mask[0]].tolist() == [tokenizer.INSTRUCTION, tokenizer.NEXT]


def test_bad_questions_are_refused(reasoning):
    """An empty instruction, an empty caption, a caption too many, and one that is too long."""
    with pytest.raises(InputError, match=r"requests\[0\]\.instruction"):
        reasoning.next_events([Request(observation(0), " ")])
    with pytest.raises(InputError, match=r"captions\[1\]"):
        reasoning.remaining_steps(REQUESTS[:2], ["lift it", ""])
    with pytest.raises(InputError, match="captions: found 1"):
        reasoning.remaining_steps(REQUESTS[:2], ["lift it"])
    with pytest.raises(InputError, match="expected at most"):
        reasoning.remaining_steps(REQUESTS[:1], ["lift the puck and press the button and go on"])

"""Controllers without an oracle on the invented simulator: what they are told, what they remember, when they wait."""

import jax
import numpy as np
import pytest

from tests.evaluate.test_closed_loop import Ladder
from wallwm_jax.core.types import ActionChunk
from wallwm_jax.data.embodiment import Embodiment
from wallwm_jax.data.traces import NOTHING
from wallwm_jax.evaluate.closed_loop import run_cell
from wallwm_jax.evaluate.controllers import PolicyController
from wallwm_jax.infer.conditions import ChunkSettings, WindowSettings
from wallwm_jax.infer.denoise import TextCondition
from wallwm_jax.infer.driver import PolicySettings
from wallwm_jax.infer.event_driver import EventDriver
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings, EventPrediction
from wallwm_jax.infer.history import History
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.reasoning import NextEvent, Reasoning
from wallwm_jax.infer.text_sources import CAPTION, INSTRUCTION, LATENTS, PLANNER, TextSource
from wallwm_jax.infer.unified_driver import UnifiedDriver
from wallwm_jax.infer.unified_mode import ChunkPrediction, UnifiedMode, UnifiedModeSettings

KEY = jax.random.key(0)
WINDOW = ChunkSettings(history_latents=1, future_latents=1)
"""A chunk of 8 control steps, and as many in the past."""
NAMES = {name: f"right_arm.{name}" for name in ("x", "y", "z", "r00")}
EMBODIMENT = Embodiment("toy", 20.0, ("front",), "observation.state", "action", NAMES, NAMES)
"""The numbers that the invented simulator commands."""


def rising(state, steps):
    """A chunk that rises by 0.15 from a state."""
    actions = np.tile(state, (steps, 1)).astype(np.float32)
    actions[:, 10] += 0.15 * (np.arange(steps) + 1) / steps
    return ActionChunk(actions, np.ones(26, bool), np.ones(steps, bool), 20.0)


class Chunks(UnifiedMode):
    """Rises whatever it is told, and keeps what it was told."""

    def __init__(self):
        self.settings = UnifiedModeSettings(2, WINDOW)
        self.embodiment = EMBODIMENT
        self.told, self.lengths = [], []

    def history(self):
        return History(WINDOW.history_latents, WINDOW.frame_stride)

    def encode(self, captions):
        self.told.append(list(captions))
        mask = np.ones((len(captions), 1, 4), bool)
        return TextCondition(np.zeros((*mask.shape, 2), np.float32), mask, mask[..., 0])

    def act(self, histories, text, *, key, dream=False):
        assert len(text.features) == len(histories)
        self.lengths.append([len(history) for history in histories])
        return [ChunkPrediction(rising(history.state, WINDOW.steps), None, None, 0) for history in histories]


class Events(EventMode):
    """Rises in as many steps as it is told."""

    def __init__(self):
        self.settings = EventModeSettings(window=WindowSettings(max_latent_frames=2))
        self.embodiment = EMBODIMENT
        self.asked = []

    def encode(self, captions):
        self.told = list(captions)
        mask = np.ones((len(captions), 1, 4), bool)
        return TextCondition(np.zeros((*mask.shape, 2), np.float32), mask, mask[..., 0])

    def predict(self, observations, text, steps=None, *, key, dream=True):
        self.asked += list(zip(self.told, steps, strict=True))
        chunks = [rising(seen.state, count) for seen, count in zip(observations, steps, strict=True)]
        return [EventPrediction(chunk, count, 2, None) for chunk, count in zip(chunks, steps, strict=True)]


class Script(Reasoning):
    """The n-th event of a script after n past events, and then nothing."""

    def __init__(self, script, steps):
        self.script, self.steps, self.asked = script, steps, []

    def next_events(self, requests):
        self.asked += [request.done for request in requests]
        left = [self.script[len(request.done) :] for request in requests]
        return [NextEvent(rest[0] if rest else NOTHING, self.steps) for rest in left]

    def condition_of_latents(self, requests):
        mask = np.ones((len(requests), 1, 4), bool)
        return TextCondition(np.zeros((*mask.shape, 2), np.float32), mask, mask[..., 0])


def controller_of(driver, source):
    """A controller of the name of its source."""
    return PolicyController(Policy(driver, source, PolicySettings(timings=False)), source, source, KEY)


@pytest.fixture
def play(protocol):
    """The result of a controller in both episodes."""
    loaded = protocol()
    return lambda controller: run_cell(controller, [Ladder(), Ladder()], loaded.cell("toy"), loaded)


def test_unified_mode_is_told_what_its_source_says(play):
    """The instruction once and for all; or the due event's caption, anew for every chunk. The history is shown
    every second control step, as its stride needs, though a plan is asked for only once a chunk."""
    mode = Chunks()
    result = play(controller_of(UnifiedDriver(mode), INSTRUCTION))
    assert [len(part) for part in mode.told] == [2] and result.completed > 0 and not result.refusals
    assert mode.lengths[:3] == [[1, 1], [5, 5], [5, 5]]
    mode = Chunks()
    controller = controller_of(UnifiedDriver(mode), CAPTION)
    play(controller)
    assert len(mode.told) == len(mode.lengths) and all("drawer" in part[0] for part in mode.told if len(part) == 2)
    assert controller.oracle and controller.watches == WINDOW.frame_stride and not controller.ends_events


def test_memory_grows_when_an_event_is_expected_to_end(play):
    """Within a chunk: after each one. Longer than it: never."""
    for steps, expected in ((8.0, [0, 1, 2]), (9.0, [0, 0, 0])):
        mode, reasoning = Chunks(), Script(["a", "b", "c", "d", "e"], steps)
        play(controller_of(UnifiedDriver(mode, reasoning), LATENTS))
        assert [len(done) for done in reasoning.asked[:6:2]] == expected


def test_event_mode_with_its_own_planner(play):
    """It performs the events that its planner names, for as long as it says and no longer than event mode can, in the
    order in which they become past; when nothing is left it waits where it is."""
    mode, reasoning = Events(), Script(["open the drawer", "press the button"], 20.0)
    result = play(controller_of(EventDriver(mode, reasoning), PLANNER))
    assert mode.asked[:4] == [("open the drawer", 8)] * 2 + [("press the button", 8)] * 2
    assert reasoning.asked[:4] == [(), (), ("open the drawer",), ("open the drawer",)]
    assert len(mode.asked) == 4 and len(reasoning.asked) > 4 and not result.refusals


class Watcher(UnifiedDriver):
    """Keeps the chunk numbers that its text source is asked with."""

    def __init__(self, mode):
        super().__init__(mode)
        self.chunks, plain = [], self.sources[INSTRUCTION]

        class Counted(TextSource):
            def condition(_, requests):
                self.chunks.append([request.chunk for request in requests])
                return plain.condition(requests)

        self.sources[INSTRUCTION] = Counted()


def test_a_text_source_is_told_the_chunk_and_not_the_elapsed_steps(play):
    """The second chunk is number 1, though 8 control steps have been executed; a new episode begins at 0."""
    driver = Watcher(Chunks())
    for _ in range(2):
        driver.chunks.clear()
        play(controller_of(driver, INSTRUCTION))
        assert driver.chunks[:3] == [[0, 0], [1, 1], [2, 2]]

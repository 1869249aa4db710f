"""A policy on a model whose answers are known: dictionaries in, the robot's layout out, and rollouts that repeat."""

import jax
import numpy as np
import pytest

from wallwm_jax.core.errors import InputError
from wallwm_jax.data.embodiment import UNIFIED_NAMES, Embodiment
from wallwm_jax.data.traces import NOTHING
from wallwm_jax.infer.boundary import assert_sendable
from wallwm_jax.infer.conditions import ChunkSettings, WindowSettings
from wallwm_jax.infer.denoise import SolverSettings
from wallwm_jax.infer.driver import WAIT, PolicySettings
from wallwm_jax.infer.event_driver import EventDriver
from wallwm_jax.infer.event_mode import EventMode, EventModeSettings
from wallwm_jax.infer.observations import blank_observation
from wallwm_jax.infer.planner import LONG_CAPTION
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.reasoning import NextEvent, Reasoning
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.safety import EMPTY_TEXT
from wallwm_jax.infer.stage_timer import StageTimer
from wallwm_jax.infer.text_sources import CAPTION, INSTRUCTION, LATENTS, PLANNER
from wallwm_jax.infer.unified_driver import UnifiedDriver
from wallwm_jax.infer.unified_mode import UnifiedMode, UnifiedModeSettings

ARM, KEY = [10, 11, 12], jax.random.key(7)
SOLVER = SolverSettings(video_steps=2, action_steps=2)
SCRIPT = ("reach", "lift")


class Script(Reasoning):
    """Names the events of a script, each of which takes 8 steps; remembers what it was asked."""

    def __init__(self, mode):
        self.mode, self.asked = mode, []

    def next_events(self, requests):
        self.asked += [request.memory for request in requests]
        left = [SCRIPT[len(request.memory) :] for request in requests]
        return [NextEvent(rest[0] if rest else NOTHING, 8.0) for rest in left]

    def condition_of_latents(self, requests):
        return self.mode.encode(["latents"] * len(requests))


@pytest.fixture(scope="module")
def drivers(embodiment, statistics, known_flow):
    """Both modes' drivers, their programs shared by all tests."""
    parts = (known_flow(1.0), {}, embodiment, statistics)
    window = WindowSettings(text_length=16, max_latent_frames=2)
    event_timer, unified_timer = StageTimer(), StageTimer()
    event = EventMode(*parts, EventModeSettings(1, window, SOLVER), event_timer)
    chunk = ChunkSettings(history_latents=1, future_latents=1, text_length=16)
    unified = UnifiedMode(*parts, UnifiedModeSettings(1, chunk, SOLVER), unified_timer)
    return {
        "event": EventDriver(event, Script(event), timer=event_timer),
        "unified": UnifiedDriver(unified, Script(unified), timer=unified_timer),
    }


@pytest.fixture
def policy(drivers):
    return lambda mode, source=CAPTION, **settings: Policy(drivers[mode], source, PolicySettings(**settings), name=mode)


@pytest.fixture
def robot(observe, embodiment):
    """What an observation of a seed looks like in the robot's own words."""

    def make(seed):
        seen = observe(seed)
        numbers = embodiment.lower(seen.state[None])[0]
        state = dict(zip(embodiment.state, numbers.tolist(), strict=True))
        return dict(zip(embodiment.views, seen.views, strict=True)) | {"state": state}

    return make


def test_a_dictionary_gives_what_the_mode_says_in_the_robots_layout(policy, drivers, robot, observe, embodiment):
    """Event mode: the same bits as `EventMode.predict`, as commands by the robot's names."""
    result = policy("event").infer(robot(0), caption="lift", key=KEY, dream=True)
    (expected,) = drivers["event"].mode.predict([observe(0)], ["lift"], key=KEY)
    np.testing.assert_array_equal(result.unified.actions, expected.actions.actions)
    np.testing.assert_array_equal(result.frames, expected.frames)
    np.testing.assert_array_equal(result.actions, embodiment.lower(expected.actions.actions))
    assert result.names == tuple(embodiment.action) and result.steps == 5 and result.ends_event and result.dreamt
    assert result.command(0) == pytest.approx(dict(zip(result.names, result.actions[0].tolist(), strict=True)))
    assert len(policy("event").infer(robot(0), caption="lift", steps=3).actions) == 3


def test_unified_mode_keeps_the_history_of_what_it_is_shown(policy, drivers, robot, observe):
    """Shown every `watches`-th control step, `infer` answers as `UnifiedMode.act` does; `reset` forgets it."""
    driver = drivers["unified"]
    shown, history = policy("unified"), driver.history()
    for seed in range(4):
        shown.observe(robot(seed))
        history.push(observe(seed), driver.watches)
    result = shown.infer(robot(4), caption="lift", key=KEY)
    history.push(observe(4), driver.watches)
    (expected,) = driver.mode.act([history], ["lift"], key=KEY)
    np.testing.assert_array_equal(result.unified.actions, expected.actions.actions)
    assert len(result.actions) == driver.steps == 8
    fresh = policy("unified").infer(robot(4), caption="lift", key=KEY)
    shown.reset()
    again = shown.infer(robot(4), caption="lift", key=KEY)
    np.testing.assert_array_equal(again.actions, fresh.actions)
    assert len(shown.infer(robot(5), caption="lift", steps=3).actions) == 3


@pytest.mark.parametrize("mode", ["event", "unified"])
def test_a_rollout_is_a_function_of_the_seed_and_the_calls(policy, robot, mode):
    """Without keys it repeats after `reset`; every call and every seed draws other noise."""
    first, other = policy(mode), policy(mode, seed=1)

    def rollout(one):
        return [one.infer(robot(0), caption="lift").actions for _ in range(2)]

    before, different = rollout(first), rollout(other)
    first.reset()
    for one, again in zip(before, rollout(first), strict=True):
        np.testing.assert_array_equal(one, again)
    assert np.abs(before[0] - different[0]).max() > 1e-4
    if mode == "event":
        assert np.abs(before[0] - before[1]).max() > 1e-4


@pytest.mark.parametrize("mode", ["event", "unified"])
def test_sources_are_switched_in_mid_rollout(policy, drivers, robot, mode):
    """Every source answers; what people have said and what was planned is remembered by those that read it, until the
    planner takes the task to be done and the robot waits where it is."""
    serving, reasoning = policy(mode, INSTRUCTION), drivers[mode]._reasoning
    reasoning.asked.clear()
    assert serving.infer(robot(0), "tidy up").caption is None
    assert serving.infer(robot(1), caption="reach", text_source=CAPTION).caption == "reach"
    if mode == "unified":  # a chunk is no event: the next caption says that the last is over
        assert serving.infer(robot(1), caption="look").source == CAPTION
    assert serving.infer(robot(2), text_source=LATENTS).caption == "lift"
    assert reasoning.asked[-1] == ("reach",)
    last = serving.infer(robot(3), text_source=PLANNER)
    assert last.finished and last.failure is None and len(last.actions) == WAIT
    assert reasoning.asked[-1] == ("reach", "lift")
    named = serving.infer(robot(3), done=["reach"])
    assert named.caption == "lift" and not named.finished
    with pytest.raises(InputError, match="text_source: found 'oracle', expected one of"):
        serving.use("oracle")


def test_a_refused_call_leaves_the_rollout_as_it_was(policy, robot):
    """A forgotten caption or a wrong picture is named; asked again, the policy answers as if nothing had been."""
    clean, clumsy = policy("unified"), policy("unified")
    for one in (clean, clumsy):
        one.infer(robot(0), caption="lift")
        one.observe(robot(2))
    with pytest.raises(InputError, match="caption of robot 0: found None"):
        clumsy.infer(robot(5))
    with pytest.raises(InputError, match="camera 'front'"):
        clumsy.infer(robot(1) | {"front": np.zeros((8, 8, 3), np.uint8)}, caption="lift")
    with pytest.raises(InputError, match="steps: found 9, expected 1 to the 8"):
        clumsy.infer(robot(1), caption="lift", steps=9)
    results = [one.infer(robot(1), caption="lift").actions for one in (clean, clumsy)]
    np.testing.assert_array_equal(*results)
    with pytest.raises(InputError, match="elapsed: found 0"):
        clumsy.infer(robot(1), caption="lift", elapsed=0)
    with pytest.raises(InputError, match="event steps: found 0"):
        policy("event").infer(robot(0), caption="lift", steps=0)


def test_told_nothing_it_holds_still_and_says_so(policy, robot):
    """A blank caption is a failure with a name; a blank instruction is the caller's mistake."""
    for mode in ("event", "unified"):
        held = policy(mode).infer(robot(0), caption=" ")
        assert held.failure.name == EMPTY_TEXT and (held.actions == held.actions[0]).all()
        with pytest.raises(InputError, match="instruction of robot 0"):
            policy(mode, INSTRUCTION).infer(robot(0))


@pytest.mark.parametrize("caption, name", [("", EMPTY_TEXT), ("lift the very long caption", LONG_CAPTION)])
def test_a_planner_that_talks_nonsense_is_a_named_failure(drivers, robot, caption, name):
    """Its captions come from a network: no error reaches the robot's loop, the pose is held, nothing is remembered."""

    class Nonsense(Script):
        def next_events(self, requests):
            return [NextEvent(caption, 4.0) for _ in requests]

    for kind, mode in ((EventDriver, drivers["event"].mode), (UnifiedDriver, drivers["unified"].mode)):
        policy = Policy(kind(mode, Nonsense(mode)), PLANNER)
        held = policy.infer(robot(0), "tidy up")
        assert held.failure.name == name and not held.finished and (held.actions == held.actions[0]).all()
        assert policy._rollouts[0].done == ()


def test_warming_up_compiles_everything(policy, drivers, robot):
    """Afterwards no source and no length finds anything to compile, and the rollout has not begun."""
    for mode, serving in ((mode, policy(mode)) for mode in drivers):
        serving.warm_up((16, 16), dream=True)
        serving.infer(robot(0), "tidy up", caption="lift", dream=True)
        for source in drivers[mode].sources:
            assert "compile" not in serving.infer(robot(0), caption="lift", text_source=source, dream=True).seconds
    with pytest.raises(InputError, match="image_size"):
        policy("event").warm_up()


def test_seconds_of_the_stages_make_up_the_total(policy, robot):
    """Each stage is waited for; without timings the total is all."""
    seconds = policy("event").infer(robot(0), caption="lift", dream=True).seconds
    assert {"text", "encode", "noise", "video", "action", "decode", "host", "total"} <= set(seconds)
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) == pytest.approx(2 * seconds["total"], rel=0.01)


def test_robots_of_one_call_have_histories_of_their_own(policy, observe):
    """Two robots served together, one of which begins anew: each answers as it would alone."""
    first, second = (Request(observe(seed), caption="lift", scene=seed) for seed in (0, 1))
    together, alone = policy("unified"), policy("unified")
    together.act([first, second], key=KEY)
    alone.act([first], key=KEY)
    later = first._replace(observation=observe(2), elapsed=8)
    results = [one.act([later, *rest], key=KEY)[0] for one, rest in ((together, [second]), (alone, []))]
    np.testing.assert_array_equal(results[0].actions, results[1].actions)
    fork = together.fork()
    assert fork.driver is together.driver and fork._rollouts == {}


def test_a_policy_describes_itself(policy):
    """Cameras, names with units, rate, steps and sources, in values that JSON knows."""
    event, unified = policy("event").describe(), policy("unified", INSTRUCTION).describe()
    assert event["cameras"] == ["front", "wrist"] and event["action"]["x"] == "right_arm.x, metres"
    assert event["steps a call"] == "at most 8" and unified["steps a call"] == 8
    assert unified["steps between observations"] == 2 and event["steps between observations"] is None
    assert unified["text source"] == INSTRUCTION and set(event["text sources"]) == {
        CAPTION,
        INSTRUCTION,
        LATENTS,
        PLANNER,
    }


def test_a_degenerate_rotation_never_reaches_the_network(statistics, known_flow):
    """Both modes and the policy refuse it by name, where it became actions that are no numbers."""
    names = {name: name for name in UNIFIED_NAMES}
    bimanual = Embodiment("bimanual", 20.0, ("front", "wrist"), "state", "action", names, names)
    parts = (known_flow(0.0), {}, bimanual, statistics)
    window = WindowSettings(text_length=16, max_latent_frames=2)
    event = EventMode(*parts, EventModeSettings(1, window, SOLVER))
    unified = UnifiedMode(*parts, UnifiedModeSettings(1, ChunkSettings(text_length=16), SOLVER))
    seen = blank_observation(bimanual, (16, 16))
    lost = seen._replace(state=np.zeros(26, np.float32))
    history = unified.history()
    history.push(lost)
    expected = "state: left_arm rotation: found zero columns, expected two non-parallel columns"
    for act in (
        lambda: event.predict([lost], ["lift"], key=KEY),
        lambda: unified.act([history], ["lift"], key=KEY),
        lambda: Policy(EventDriver(event), CAPTION).infer(lost, caption="lift"),
    ):
        with pytest.raises(InputError, match=expected):
            act()


@pytest.mark.parametrize("spoil", ["nan", "float64", "short"])
def test_what_must_not_leave_is_asserted(policy, robot, spoil):
    """Shapes, dtype and finiteness of the unified actions and of the commands."""
    result = policy("event").infer(robot(0), caption="lift")
    chunk, commands = result.unified, result.actions
    assert_sendable(chunk, commands, result.names)
    if spoil == "nan":
        commands = commands.copy()
        commands[0, 0] = np.nan
    elif spoil == "float64":
        commands = commands.astype(np.float64)
    else:
        chunk = chunk._replace(step_mask=chunk.step_mask[:1])
    with pytest.raises(AssertionError):
        assert_sendable(chunk, commands, result.names)

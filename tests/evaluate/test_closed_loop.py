"""The closed loop on an invented simulator: whose turn it is, what is sent, what is counted."""

import json
import time

import numpy as np
import pytest

from wallwm_jax.core.types import Observation
from wallwm_jax.evaluate.closed_loop import TOO_SLOW, run_cell
from wallwm_jax.evaluate.controllers import HoldController, Plan

RISE = 0.1


class Ladder:
    """A simulator of one height, which is the x last commanded: an event is done if it rose by RISE since it began,
    a drawer is open (or closed) above 0.25."""

    def __init__(self):
        self.place, self.start, self.sent, self.scene = np.zeros(4), 0.0, [], None

    def reset(self, seed, program):
        self.scene, self.program = seed, program

    def observe(self):
        state, mask = np.zeros(26, np.float32), np.zeros(26, bool)
        state[10:14], mask[10:14] = self.place, True
        return Observation(np.zeros((1, 8, 8, 3), np.uint8), np.ones(1, bool), state, mask)

    def step(self, action):
        assert action.shape == (4,) and np.isfinite(action).all()
        self.place = np.asarray(action)
        self.sent.append(float(action[0]))

    def begin_event(self):
        self.start = self.place[0]

    def event_completed(self, verb, object, target):
        if verb in ("open", "close"):
            return bool(self.place[0] > 0.25)
        return bool(self.place[0] - self.start >= RISE - 1e-6)

    def close(self):
        raise AssertionError("whoever made an environment closes it")


class Climber:
    """Rises by `rise` in `steps` equal steps, by next to nothing if the caption speaks of the button."""

    name, oracle, watches, ends_events = "climber", True, 0, True

    def __init__(self, rise=0.15, steps=3, announced=None):
        self.rise, self.steps, self.announced, self.seen = rise, steps, announced, []

    def act(self, requests):
        self.seen.append(requests)
        return [self.plan(request) for request in requests]

    def plan(self, request):
        rise = 0.01 if self.oracle and "button" in request.caption else self.rise
        commands = np.zeros((self.steps, 4))
        commands[:, 0] = request.observation.state[10] + rise * (np.arange(self.steps) + 1) / self.steps
        return Plan(commands, self.announced or request.caption, self.ends_events)


class Wrong(Climber):
    """A climber whose answer is passed through a function that spoils it."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def act(self, requests):
        return self.spoil(super().act(requests))


def run(controller, protocol, count=2):
    environments = [Ladder() for _ in range(count)]
    return run_cell(controller, environments, protocol.cell("toy"), protocol), environments


def test_events_are_judged_one_by_one(protocol):
    """Opening (3 events) succeeds whole; the three events of press do not; each verb is counted. The second episode
    has a task done of two and no success."""
    result, _ = run(Climber(), protocol())
    assert (result.episodes, result.events, result.completed, result.successes) == (2, 9, 6, 1)
    assert result.by_verb["press"] == (0, 1) and result.by_verb["open"] == (1, 1) and result.by_verb["reach"] == (2, 3)
    assert result.progress == pytest.approx((100 + 50) / 2) and result.refusals == {}
    assert [film.success for film in result.films] == [True, False] and result.films[0].frames.shape == (4, 8, 8, 3)


def test_each_event_starts_from_a_fresh_observation(protocol):
    """Observations follow what the earlier commands did; an episode that is over is no longer asked; scenes are those
    of the protocol; the memory holds what was announced as done."""
    controller = Climber()
    _, environments = run(controller, protocol())
    heights = [[float(request.observation.state[10]) for request in requests] for requests in controller.seen]
    np.testing.assert_allclose(np.ravel(heights[:3]), [0, 0, 0.15, 0.15, 0.3, 0.3], atol=1e-6)
    assert [len(requests) for requests in controller.seen] == [2, 2, 2, 1, 1, 1]
    assert [environment.scene for environment in environments] == [6_000_000, 6_000_001]
    captions = [requests[-1].caption for requests in controller.seen]
    assert controller.seen[-1][0].done == tuple(captions[:-1]) and controller.seen[0][0].elapsed == 0


def test_a_controller_is_shown_the_steps_it_asks_for(protocol):
    """Every second control step of the episode, with its number, once: the present one is the observation itself."""
    controller = Climber(steps=5)
    controller.watches = 2
    run(controller, protocol(), 1)
    (first,), (second,), (third,) = controller.seen
    assert [request.elapsed for request in (first, second, third)] == [0, 5, 10]
    assert [[step for step, _ in request.watched] for request in (first, second, third)] == [[], [2, 4], [6, 8]]
    heights = [float(seen.state[10]) for _, seen in second.watched] + [float(third.observation.state[10])]
    np.testing.assert_allclose(heights, [0.06, 0.12, 0.3], atol=1e-6)


def test_results_do_not_depend_on_the_scenes_beside(protocol):
    """One scene alone and beside another ends alike."""
    alone, both = (run(Climber(), protocol(), count)[0] for count in (1, 2))
    assert alone.details[0] == both.details[0]


def test_a_result_is_plain_json_with_its_captions(protocol):
    """Everything but the films survives JSON."""
    result, _ = run(Climber(), protocol())
    details = json.loads(json.dumps(result.details))
    assert details[0]["tasks"][0]["completed"] == [True] * 3 and details[1]["events"][5]["object"] == "button"
    assert "frames" not in details[0] and result.announced == (9, 9)


def test_a_controller_without_an_oracle_is_told_nothing(protocol):
    """It gets the instruction and its own memory, no caption; what it announces is compared with what was due."""
    controller = Climber(announced="reach for the drawer handle")
    controller.oracle = False
    result, _ = run(controller, protocol())
    assert all(request.caption is None for requests in controller.seen for request in requests)
    assert controller.seen[0][1].instruction == "close the drawer and press the button"
    assert result.announced == (2, 9)


def test_without_ends_an_event_is_over_when_the_scene_shows_it(protocol):
    """One plan can carry the scene through several events; what the controller calls done is only its memory."""
    controller = Climber(rise=0.36, steps=8)
    controller.oracle = controller.ends_events = False
    result, environments = run(controller, protocol())
    first = result.details[0]
    # Reach at 0.135, open at once above 0.25 (0.27), retreat 0.1 above that (0.405).
    assert [event["steps"] for event in first["events"]] == [3, 3, 3] and first["success"]
    assert len(environments[0].sent) == 9


@pytest.mark.parametrize("ends", [True, False])
def test_an_event_fails_at_its_step_limit(protocol, ends):
    """A controller that never moves and never ends an event has every event cut at 12 steps, and the episode at 30."""
    controller = Climber(rise=0.0, steps=5)
    controller.ends_events = ends
    controller.plan = lambda request: Plan(np.repeat(request.observation.state[None, 10:14], 5, axis=0))
    result, environments = run(controller, protocol(episode_steps=30))
    assert [event["steps"] for event in result.details[1]["events"]] == [12, 12, 6]
    assert result.completed == 0 and result.progress == 0 and len(environments[1].sent) == 30
    assert result.details[1]["tasks"][1] == {
        "task": "press", "completed": (False,) * 3, "reached": False, "kept": False
    }  # fmt: skip


def test_unsafe_commands_never_reach_the_simulator(protocol):
    """Each is answered by the last safe position and counted under its reason; safe ones of the same plan are sent."""
    plans = {
        "not finite": [[0.1, 0, 0, 0], [np.nan, 0, 0, 0], [0.2, 0, 0, 0]],
        "outside the workspace": [[0.1, 0, 0, 0], [0.1, 0, 0, 9], [0.2, 0, 0, 0]],
        "too fast": [[0.1, 0, 0, 0], [0.3, 0, 0, 0], [0.2, 0, 0, 0]],
    }
    for reason, commands in plans.items():
        result, environments = run(Wrong(lambda made, rows=commands: [Plan(np.array(rows), None, True)]), protocol(), 1)
        assert result.refusals[reason] >= 1 and set(result.refusals) <= {reason, "too fast"}
        np.testing.assert_allclose(environments[0].sent[:3], [0.1, 0.1, 0.2])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda plans: [plan._replace(commands=plan.commands[:, :3]) for plan in plans], "wrong shape"),
        (lambda plans: [plan._replace(commands=plan.commands[0]) for plan in plans], "wrong shape"),
        (lambda plans: [plan._replace(commands=[]) for plan in plans], "no commands"),
        (lambda plans: [plan._replace(commands="up") for plan in plans], "no numbers"),
        (lambda plans: [plan._replace(commands=np.zeros((9, 4))) for plan in plans], "longer than allowed"),
        (lambda plans: [plan.commands for plan in plans], "not a plan"),
        (lambda plans: [plan._replace(announced=["lift"]) for plan in plans], "not a plan"),
        (lambda plans: plans[1:], "plans for"),
        (lambda plans: 1 / 0, "controller raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_faulty_controller_is_named_and_the_scene_holds(protocol, spoil, reason):
    """No fault of a controller ends the evaluation or moves the arm."""
    result, environments = run(Wrong(spoil), protocol())
    assert all(reason in found for found in result.refusals) and result.refusals
    assert set(environments[0].sent) == {0.0} and result.completed == 0


def test_an_overdue_answer_is_thrown_away(protocol):
    """A controller slower than the protocol allows is named; its commands are not sent."""
    slow = Wrong(lambda plans: time.sleep(0.02) or plans)
    result, environments = run(slow, protocol(act_seconds=0.01), 1)
    assert set(result.refusals) == {TOO_SLOW} and set(environments[0].sent) == {0.0}


def test_holding_still_completes_nothing(protocol):
    """The lower bound sends the pose that it sees."""
    result, environments = run(HoldController(4), protocol())
    assert result.completed == 0 and result.refusals == {} and set(environments[0].sent) == {0.0}

"""Closed loop: a controller drives simulated scenes side by side through the cells of a protocol."""

import time
from collections.abc import Callable, Iterator, Sequence

from jaxtyping import PRNGKeyArray

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.rng import stream
from wallwm_jax.evaluate.closed_loop_files import CellFiles
from wallwm_jax.evaluate.closed_loop_results import CellResult, ClosedLoopResult, cell_result
from wallwm_jax.evaluate.controllers import Controller, Plan, PolicyController
from wallwm_jax.evaluate.protocol import Cell, ClosedLoopProtocol
from wallwm_jax.evaluate.scene_run import Environment, SceneRun
from wallwm_jax.infer.modes import mode_of
from wallwm_jax.infer.policy import Policy
from wallwm_jax.infer.request import Request
from wallwm_jax.infer.text_sources import CAPTION
from wallwm_jax.simulate.recording import CONTROL_HZ

TOO_SLOW, NO_PLAN = "controller too slow", "not a plan"


def drive(policy: Policy, protocol: ClosedLoopProtocol, episodes: int, seed: int = 0) -> ClosedLoopResult:
    """Event mode with the oracle's captions in every cell of a protocol, in at most `episodes` scenes each (extra
    `sim`).

    Raises:
        InputError: the protocol's views or control rate are not those of the model's embodiment and of the simulator.
    """
    found, embodiment = f"{protocol.views} at {protocol.control_hz} Hz", policy.driver.embodiment
    if (protocol.views, protocol.control_hz) != (tuple(embodiment.views), embodiment.control_hz):
        expected = f"those of embodiment {embodiment.name}: {embodiment.views} at {embodiment.control_hz}"
        raise InputError(f"protocol {protocol.name}", found, expected)

    def controllers(environments: Sequence[Environment], key: PRNGKeyArray) -> list[Controller]:
        name = mode_of("event").compared[CAPTION]
        return [PolicyController(policy, CAPTION, name, key, replan_every=protocol.replan_every)]

    cells = list(compare(controllers, protocol, episodes, seed))
    return ClosedLoopResult(protocol.source, protocol.rubric.source, cells)


def compare(
    controllers: Callable[[Sequence[Environment], PRNGKeyArray], Sequence[Controller]],
    protocol: ClosedLoopProtocol,
    episodes: int,
    seed: int = 0,
    files: CellFiles | None = None,
) -> Iterator[CellResult]:
    """Every controller in every cell of a protocol, in the same scenes, at most `episodes` of each (extra `sim`), as
    they are finished.

    Args:
        controllers: makes them anew for a cell, from its scenes' environments and the key of all its noise.
        files: keep what is finished; what they already have is not driven again.

    Raises:
        InputError: the protocol's views or control rate are not those of the simulator.
    """
    from wallwm_jax.simulate.environment import TabletopEnvironment

    if (protocol.views, protocol.control_hz) != (TabletopEnvironment.views, CONTROL_HZ):
        found = f"{protocol.views} at {protocol.control_hz} Hz"
        raise InputError(f"protocol {protocol.name}", found, f"{TabletopEnvironment.views} at {CONTROL_HZ} Hz")
    counts = [min(episodes, cell.episodes) for cell in protocol.cells]
    environments = [TabletopEnvironment(protocol.image_size) for _ in range(max(counts))]
    try:
        for cell, count in zip(protocol.cells, counts, strict=True):
            chosen = environments[:count]
            for controller in controllers(chosen, stream(seed, "closed_loop", cell.name)):
                kept = files and files.find(cell.name, controller.name)
                result = kept or run_cell(controller, chosen, cell, protocol)
                if files and not kept:
                    files.keep(result)
                found = f"{result.completed} of {result.events} events, {result.seconds:.0f} s"
                print(f"{cell.name}, {controller.name}: {found}{' (kept)' if kept else ''}", flush=True)
                yield result
    finally:
        for environment in environments:
            environment.close()


def run_cell(
    controller: Controller, environments: Sequence[Environment], cell: Cell, protocol: ClosedLoopProtocol
) -> CellResult:
    """Performs one episode of a cell in each environment, side by side: all scenes that are not over are observed and
    asked for at once, then each executes its plan.

    Whatever the controller does wrong is counted by reason in the result, and the scene holds its position meanwhile.

    Raises:
        InputError: the cell has fewer episodes than there are environments.
    """
    started = time.monotonic()
    episodes = protocol.episodes(cell, len(environments))
    runs = [
        SceneRun(number, environment, episode, protocol)
        for number, (environment, episode) in enumerate(zip(environments, episodes, strict=True))
    ]
    while acting := [run for run in runs if not run.over]:
        requests = [run.request(controller) for run in acting]
        plans = _ask(controller, requests, protocol.act_seconds)
        for run, plan in zip(acting, plans, strict=True):
            if isinstance(plan, str):
                run.hold(plan, controller)
            else:
                run.execute(plan, controller)
    results = [run.finish() for run in runs]
    return cell_result(cell.name, cell.kind, controller.name, results, time.monotonic() - started)


def _ask(controller: Controller, requests: Sequence[Request], seconds: float) -> list[Plan | str]:
    """The controller's plans, or for every scene the reason why there are none."""
    started = time.monotonic()
    try:
        plans = list(controller.act(requests))
    except Exception as error:  # Any fault of a controller: the robot's side must outlive it and name it.
        return [f"controller raised {type(error).__name__}: {error}"[:160]] * len(requests)
    if time.monotonic() - started > seconds:
        return [TOO_SLOW] * len(requests)
    if len(plans) != len(requests):
        return [f"{len(plans)} plans for {len(requests)} scenes"] * len(requests)
    return [plan if _is_plan(plan) else NO_PLAN for plan in plans]


def _is_plan(plan: object) -> bool:
    return isinstance(plan, Plan) and (plan.announced is None or isinstance(plan.announced, str))

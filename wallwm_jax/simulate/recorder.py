"""Records plans of episodes into LeRobot v3.0 datasets, with several processes, and goes on where a killed run stopped.

wallwm record --plan sample --output data_specs/sample
"""

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate import lerobot_writer
from wallwm_jax.simulate.plans import text_plan_lines
from wallwm_jax.simulate.programs import (
    LONG_PROGRAMS,
    RECOVERY_PROGRAMS,
    SHORT_PROGRAMS,
    TOUR_PROGRAMS,
    UNSEEN_PROGRAMS,
    program,
)
from wallwm_jax.simulate.recording import EpisodeFailed, Recording
from wallwm_jax.simulate.stock_experts import CAPTIONS, check_task, record_stock_episode


@dataclasses.dataclass(frozen=True)
class PlannedEpisode:
    """One episode to record: its seed, the name of its program and the split it belongs to."""

    seed: int
    program: str
    split: str


@dataclasses.dataclass(frozen=True)
class RecordingReport:
    """What `record` wrote."""

    output: pathlib.Path
    episodes: int
    frames: int
    events: int
    rejected: tuple[str, ...]
    """One line for each seed whose goals did not hold."""


def sample_plan() -> list[PlannedEpisode]:
    """20 long and 30 short episodes; 5 long and 7 short ones are held out."""
    return _plan(LONG_PROGRAMS, 20, 5, 1_000) + _plan(SHORT_PROGRAMS, 30, 7, 2_000)


def tabletop_plan(episodes: int = 200) -> list[PlannedEpisode]:
    """Long episodes; the last 12 % of the seeds are held out."""
    return _plan(LONG_PROGRAMS, episodes, round(0.12 * episodes), 10_000)


def tours_plan(episodes: int = 200) -> list[PlannedEpisode]:
    """Tours of 27 to 30 events in the scenes of `tabletop_plan`, the same ones held out."""
    return _plan(TOUR_PROGRAMS, episodes, round(0.12 * episodes), 10_000)


def unseen_plan(episodes: int = 16) -> list[PlannedEpisode]:
    """Programs whose tasks no other plan has in that order, in scenes of their own; all in the split "unseen"."""
    rows = _plan(UNSEEN_PROGRAMS, episodes, 0, 40_000)
    return [dataclasses.replace(row, split="unseen") for row in rows]


def tours_unseen_plan(episodes: int = 200) -> list[PlannedEpisode]:
    """`tours_plan` and 16 unseen episodes."""
    return tours_plan(episodes) + unseen_plan()


def scenes_plan(episodes: int = 600) -> list[PlannedEpisode]:
    """Many scenes: as many short programs as recovery starts, each in a scene of its own, and a tour for every six of
    them; then 16 unseen episodes. Where things can be is what takes most scenes to learn."""
    tours, short = episodes // 7, (episodes - episodes // 7 + 1) // 2
    rows = _plan(TOUR_PROGRAMS, tours, round(0.12 * tours), 10_000)
    rows += _plan(SHORT_PROGRAMS, short, round(0.12 * short), 20_000)
    return rows + _plan(RECOVERY_PROGRAMS, episodes - tours - short, 0, 30_000) + unseen_plan()


def _plan(programs: Sequence, count: int, held_out: int, first_seed: int) -> list[PlannedEpisode]:
    """Programs in turn; the last `held_out` seeds are the held-out split."""
    return [
        PlannedEpisode(
            first_seed + index,
            programs[index % len(programs)].name,
            "heldout" if index >= count - held_out else "train",
        )
        for index in range(count)
    ]


def stock_plan(episodes_per_task: int = 2) -> list[PlannedEpisode]:
    """Meta-World's 50 tasks with their own experts, for breadth; nothing is held out."""
    return [
        PlannedEpisode(seed, f"stock/{task}", "train") for task in sorted(CAPTIONS) for seed in range(episodes_per_task)
    ]


PLANS: dict[str, Callable[..., list[PlannedEpisode]]] = {
    "sample": sample_plan,
    "tabletop": tabletop_plan,
    "tours": tours_plan,
    "unseen": unseen_plan,
    "tours_unseen": tours_unseen_plan,
    "scenes": scenes_plan,
    "stock": stock_plan,
}

FREE_LENGTH = ("tabletop", "tours", "unseen", "tours_unseen", "scenes")
"""Plans that take a number of episodes (`tours_unseen` and `scenes`: without the unseen ones)."""

TEXT_PLANS = {"tours_unseen": 4_000, "scenes": 4_000}
"""How many plans in words a recording plan adds to its dataset."""
TEXT_PLANS_PATH, TEXT_PLANS_SEED = "meta/plans.jsonl", 0


def record(
    output: str | pathlib.Path,
    episodes: Sequence[PlannedEpisode | tuple[int, str, str]],
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    text_plans: int = 0,
) -> RecordingReport:
    """Records a plan and writes it as one dataset. The result does not depend on `workers`.

    A killed run leaves `<output>.staging` behind and the same call goes on from there.

    Args:
        output: the dataset's folder. It may hold other files (a README), but no dataset.
        episodes: (seed, program name, split) rows; a seed whose goals do not hold is left out and reported. Programs
            are those of `programs`, or "stock/<Meta-World task>".
        workers: processes, each with its own simulator and GL context.
        progress: called with (episodes done, episodes planned).
        text_plans: composed programs written as text to `meta/plans.jsonl`; 0 leaves the file out.

    Raises:
        InputError: the output holds a dataset, a program is unknown, or the staged episodes are of another plan.
    """
    output = pathlib.Path(output)
    plan = [PlannedEpisode(*row) if isinstance(row, tuple) else row for row in episodes]
    if (output / "meta" / "info.json").exists():
        raise InputError(str(output), "a dataset", "a path that holds none")
    for row in plan:
        if row.program.startswith("stock/"):
            check_task(row.program.removeprefix("stock/"))
        else:
            program(row.program)
    staging = output.with_name(output.name + ".staging")
    _open_staging(staging, plan)
    missing = [index for index in range(len(plan)) if not _staged(staging, index).exists()]
    done = len(plan) - len(missing)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max(1, min(workers, len(missing) or 1)), context) as pool:
        futures = [pool.submit(_record_one, str(staging), index, plan[index]) for index in missing]
        for future in concurrent.futures.as_completed(futures):
            future.result()
            done += 1
            if progress:
                progress(done, len(plan))
    files = {TEXT_PLANS_PATH: text_plan_lines(text_plans, TEXT_PLANS_SEED)} if text_plans else {}
    return _finish(staging, plan, output, files)


def _open_staging(staging: pathlib.Path, plan: Sequence[PlannedEpisode]) -> None:
    rows = [dataclasses.astuple(row) for row in plan]
    path = staging / "plan.json"
    if path.exists() and json.loads(path.read_text()) != [list(row) for row in rows]:
        raise InputError(str(staging), "episodes of another plan", "this plan's (delete the folder to start again)")
    staging.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def _staged(staging: pathlib.Path, index: int) -> pathlib.Path:
    return staging / f"episode_{index:06d}"


def _record_one(staging: str, index: int, row: PlannedEpisode) -> None:
    """Records and stages one episode, or stages the reason why it was rejected. Runs in a worker process."""
    folder = _staged(pathlib.Path(staging), index)
    try:
        recording = _perform(row)
    except EpisodeFailed as failure:
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        (part / "rejected.txt").write_text(str(failure))
        part.rename(folder)
        return
    lerobot_writer.stage_episode(recording, folder, row.split)


def _perform(row: PlannedEpisode) -> Recording:
    if row.program.startswith("stock/"):
        return record_stock_episode(row.program.removeprefix("stock/"), row.seed)
    from wallwm_jax.simulate.episodes import record_episode

    return record_episode(_tabletop(), row.seed, program(row.program))


@functools.cache
def _tabletop():
    """A worker process's own simulator: building one takes a second, so it is kept between episodes."""
    from wallwm_jax.simulate.environment import TabletopEnvironment

    return TabletopEnvironment()


def _finish(
    staging: pathlib.Path, plan: Sequence[PlannedEpisode], output: pathlib.Path, files: Mapping[str, str]
) -> RecordingReport:
    folders = [_staged(staging, index) for index in range(len(plan))]
    rejected = tuple((folder / "rejected.txt").read_text() for folder in folders if (folder / "rejected.txt").exists())
    kept = [folder for folder in folders if (folder / "episode.json").exists()]
    lerobot_writer.assemble(kept, output, embodiment="tabletop", files=files)
    metadata = [json.loads((folder / "episode.json").read_text()) for folder in kept]
    shutil.rmtree(staging)
    return RecordingReport(
        output, len(kept), sum(row["length"] for row in metadata), sum(len(row["events"]) for row in metadata), rejected
    )

"""The report's section on the closed loop."""

from wallwm_jax.evaluate import figures, page
from wallwm_jax.evaluate.closed_loop_results import CellResult, ClosedLoopResult, LoopFilm

FRAME_WIDTH = 96


def render(result: ClosedLoopResult) -> str:
    """Tables by cell and by verb, what was refused, and films of a success and a failure of each cell."""
    protocol = result.protocol
    explanation = (
        f"Protocol {page.escape(protocol['name'])}, version {page.escape(protocol['version'])}: simulated scenes that "
        "no recording has. What is judged is the scene: each event when it ends, and each task's goal. <b>Task "
        "Progress</b> (0 to 100) gives points for both, by a rubric; an episode succeeds if every task's goal was "
        "reached when the task ended. Intervals are 95 %: bootstrap over episodes, and Wilson's for successes. A "
        "failed event makes the later ones of its task hard or impossible."
    )
    cells = page.table(
        ["cell", "controller", "episodes", "Task Progress", "successes", "events completed", "refused"],
        [_row(cell) for cell in result.cells],
    )
    films = "".join(_film(cell, film) for cell in result.cells for film in cell.films)
    return page.section("Closed loop", explanation, cells, _verbs(result), _refusals(result), films)


def _row(cell: CellResult) -> list[str]:
    low, high = cell.progress_interval
    least, most = cell.success_interval
    return [
        f"{page.escape(cell.cell)} ({page.escape(cell.kind)})",
        page.escape(cell.controller),
        str(cell.episodes),
        f"{cell.progress:.1f} ({low:.1f} to {high:.1f})",
        f"{cell.successes} of {cell.episodes} ({least:.0%} to {most:.0%})",
        f"{cell.completed} of {cell.events}",
        str(sum(cell.refusals.values())),
    ]


def _verbs(result: ClosedLoopResult) -> str:
    verbs = list(dict.fromkeys(verb for cell in result.cells for verb in cell.by_verb))
    rows = []
    for cell in result.cells:
        shares = [cell.by_verb.get(verb) for verb in verbs]
        counts = [f"{share[0]} of {share[1]}" if share else "–" for share in shares]
        rows.append([page.escape(f"{cell.cell}, {cell.controller}"), *counts])
    return "<p>Events completed, by verb:</p>" + page.table(["", *map(page.escape, verbs)], rows)


def _refusals(result: ClosedLoopResult) -> str:
    """One line for each cell in which something was refused."""
    lines = []
    for cell in result.cells:
        reasons = "; ".join(f"{page.escape(reason)}: {count}" for reason, count in cell.refusals.items())
        if reasons:
            lines.append(
                f"<p>Not sent to the robot in {page.escape(f'{cell.cell}, {cell.controller}')}: {reasons}.</p>"
            )
    return "".join(lines)


def _film(cell: CellResult, film: LoopFilm) -> str:
    outcome = "a success" if film.success else "a failure"
    head = (
        f"<h3>{page.escape(film.title)}</h3><small>{page.escape(f'{cell.cell}, {cell.controller}')}: {outcome}</small>"
    )
    width = (FRAME_WIDTH + 2) * len(film.frames) - 2
    picture = page.image(figures.strip([film.frames]), "jpeg", f"{outcome}: {film.title}", width)
    return f'<div class="film">{head}<div class="row">{picture}</div></div>'

"""`wallwm plan`: says before anybody pays for a pod whether a train step fits it, and how fast it can be."""

import json
import os
import pathlib
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from wallwm_jax.core.config import load
from wallwm_jax.core.errors import InputError


def plan(
    specification: str,
    overrides: list[str],
    topology: str,
    *,
    slices: int = 1,
    stage: str | None = None,
    views: int | None = None,
    analytic: bool = False,
    output: str | None = None,
) -> int:
    """Prints the plan of a stage, given by name or number (the first of the config's recipe by default); 0 if it fits,
    else 1.

    Args:
        views: cameras of the dataset; else `config.plan.views`.
        output: a file that the plan is also written into as JSON; its line is then the last one printed.

    Raises InputError for a config, topology or mesh that cannot be.
    """
    # Planning needs no accelerator, and must not take one that somebody else is using.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from wallwm_jax.plan.plan import make_plan
    from wallwm_jax.plan.report import as_json, sections, verdict
    from wallwm_jax.plan.topology import parse_topology
    from wallwm_jax.train.families import recipe_of, stage_of
    from wallwm_jax.train.family import require_sections

    parsed, config = parse_topology(topology, slices), load(specification, overrides)
    require_sections(config, ("mesh", "stages", *(("recipe",) if stage is None else ())), "wallwm plan")
    chosen = recipe_of(config)[0] if stage is None else stage_of(stage, configured=config.stages, where="--stage")
    views = config.get("plan", {}).get("views") if views is None else views
    if not isinstance(views, int) or views < 1:
        raise InputError("--views", views, "the number of the dataset's cameras: the config does not say")
    if output is not None and not pathlib.Path(output).absolute().parent.is_dir():
        raise InputError("--json", repr(output), "a file in a folder that exists")
    made = make_plan(chosen, config, parsed, views, analytic=analytic)
    _show(sections(made), verdict(made))
    if output is not None:
        line = json.dumps(as_json(made))
        pathlib.Path(output).write_text(line + "\n")
        print(line)
    return int(not made.fits)


def _show(parts: Sequence[tuple[str, list[tuple[str, str]]]], verdict: str) -> None:
    """A table on a terminal, plain lines elsewhere."""
    console = Console()
    if not console.is_terminal:
        for title, lines in parts:
            print(*(f"{title} | {name}: {value}" for name, value in lines), sep="\n")
        print(verdict)
        return
    table = Table(show_header=False, title="wallwm plan", caption=verdict)
    for title, lines in parts:
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]", "")
        for name, value in lines:
            table.add_row(name, value)
    console.print(table)

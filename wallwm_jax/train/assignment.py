"""Which optimizer gets which parameter: said at the start of a run, and kept beside its checkpoints."""

import json
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import write_durably
from wallwm_jax.core.trees import parameter_count
from wallwm_jax.optim import freeze
from wallwm_jax.optim.builder import assignment_table
from wallwm_jax.train.progress import Reporter
from wallwm_jax.train.run import Run

ASSIGNMENT = "assignment.json"


def announce_assignment(run: Run, shapes: Any, reporter: Reporter) -> None:
    """Writes the table of the parameters that a run trains into its directory, and says a line of it for every
    optimizer; and which towers it freezes although nothing has trained them. `shapes` are all parameters', or the
    arrays."""
    trained, frozen = freeze.split(shapes, run.stage.trains)
    rows = assignment_table(trained, run.declarations, run.settings.optimizer.optimizer)
    if jax.process_index() == 0:
        run.directory.mkdir(parents=True, exist_ok=True)
        write_durably(run.directory / ASSIGNMENT, json.dumps(rows, indent=1) + "\n")
    numbers, arrays = Counter(), Counter()
    for row in rows:
        numbers[row["optimizer"]] += row["numbers"]
        arrays[row["optimizer"]] += 1
    for name, count in numbers.most_common():
        reporter.note(f"{name}: {count:,} numbers in {arrays[name]} arrays")
    reporter.note(f"frozen: {parameter_count(frozen):,} numbers; the whole table: {run.directory / ASSIGNMENT}")
    if run.settings.freeze and run.stage.starts_from is None:
        reporter.note(f"frozen as they were drawn, no stage has trained them: {', '.join(run.settings.freeze)}")


def read_assignment(directory: pathlib.Path) -> Sequence[Mapping[str, Any]]:
    """The table of a stage's directory, a row a parameter as `assignment_table` has them; raises InputError if there is
    none."""
    path = directory / ASSIGNMENT
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(str(path), str(error), "the table that a stage writes when it starts") from error

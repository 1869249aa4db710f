"""Composed programs as text: what a planner learns to turn an instruction into. Needs no simulator."""

import json

import numpy as np

from wallwm_jax.core.errors import InputError
from wallwm_jax.simulate.composition import compose
from wallwm_jax.simulate.programs import Primitive, caption

TASKS_OF_A_PLAN = (3, 6)
"""Least and greatest number of tasks."""


def text_plan(count: int, seed: int) -> list[tuple[str, tuple[Primitive, ...]]]:
    """`count` instructions of composed programs, each with the events that carry it out. Row i is a function of the
    seed and i alone.

    Raises:
        InputError: the count is negative.
    """
    if count < 0:
        raise InputError("plans", count, "0 or more")
    return [_row(_generator(seed, index)) for index in range(count)]


def text_plan_lines(count: int, seed: int) -> str:
    """`text_plan` as JSON lines, captions paraphrased: {"instruction", "events": [{"verb", "object", "target",
    "caption"}]}."""
    lines = []
    for index in range(count):
        generator = _generator(seed, index)
        instruction, primitives = _row(generator)
        events = [
            {
                "verb": item.verb,
                "object": item.object,
                "target": item.target or "",
                "caption": caption(item, generator),
            }
            for item in primitives
        ]
        lines.append(json.dumps({"instruction": instruction, "events": events}) + "\n")
    return "".join(lines)


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, index]))


def _row(generator: np.random.Generator) -> tuple[str, tuple[Primitive, ...]]:
    least, most = TASKS_OF_A_PLAN
    program = compose(generator, int(generator.integers(least, most + 1)))
    return program.caption, program.primitives

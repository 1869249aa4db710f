"""The model families as a table, and the one place where stages are looked up.

A family is a file with a `ModelFamily`, and a row here. Whoever looks something up may pass a table of their own.
"""

from collections.abc import Collection

from wallwm_jax.core.config import Section, nearest
from wallwm_jax.core.errors import InputError
from wallwm_jax.train.family import ModelFamily
from wallwm_jax.train.reasoner import REASONER
from wallwm_jax.train.stages import Stage
from wallwm_jax.train.world_action import WORLD_ACTION

Families = tuple[ModelFamily, ...]

FAMILIES: Families = (WORLD_ACTION, REASONER)


def stages_of(families: Families = FAMILIES) -> tuple[Stage, ...]:
    """All stages. Raises InputError if two of them have one name, or two of one family one number."""
    stages = tuple(stage for family in families for stage in family.stages)
    keys = [("name", stage.name) for stage in stages]
    keys += [(f"number in family {family.name}", stage.number) for family in families for stage in family.stages]
    for place, (kind, value) in enumerate(keys):
        if (kind, value) in keys[:place]:
            raise InputError("families", f"two stages with the {kind} {value!r}", "unique names and numbers")
    return stages


def stage_of(
    choice: str | int,
    families: Families = FAMILIES,
    *,
    configured: Collection[str] | None = None,
    where: str = "stage",
) -> Stage:
    """The stage of a name, or of a number that stands for one.

    Numbers are unique in a family only. A number therefore stands for the one stage with it among those that are
    `configured` (the names in `config.stages`; None: all).

    Raises InputError, about `where`, for a name that no stage has (naming the nearest), and for a number that stands
    for no stage or for several.
    """
    stages = stages_of(families)
    if isinstance(choice, int) or choice.isdecimal():
        known = [stage for stage in stages if configured is None or stage.name in configured]
        return _numbered(int(choice), known, where)
    for stage in stages:
        if stage.name == choice:
            return stage
    raise InputError(where, repr(choice), nearest(choice, [stage.name for stage in stages]))


def _numbered(number: int, stages: Collection[Stage], where: str) -> Stage:
    found = [stage for stage in stages if stage.number == number]
    if len(found) > 1:
        names = ", ".join(stage.name for stage in found)
        raise InputError(where, f"{number}, the number of {names}", "the name of one of them")
    if not found:
        known = ", ".join(f"{stage.name} ({stage.number})" for stage in stages)
        raise InputError(where, number, f"the name or number of a stage: {known}")
    return found[0]


def recipe_of(config: Section, families: Families = FAMILIES) -> tuple[Stage, ...]:
    """The stages that `config.recipe` names, in its order; numbers stand for the stages that `config.stages` describes.

    Raises InputError for what `stage_of` refuses.
    """
    recipe = config["recipe"]
    if isinstance(recipe, str | int):
        raise InputError("config.recipe", repr(recipe), "a sequence of names of stages, such as ('video', 'action')")
    configured = tuple(config.get("stages", {}))
    return tuple(stage_of(choice, families, configured=configured, where="config.recipe") for choice in recipe)


def family_of(stage: Stage, families: Families = FAMILIES) -> ModelFamily:
    """The family that has a stage of that name; raises InputError if there is none."""
    for family in families:
        if stage.name in (own.name for own in family.stages):
            return family
    raise InputError("stage", repr(stage.name), f"a stage of one of the families {[one.name for one in families]}")

"""Optimizers that a config names by "module:function": Optax's own, or a chain in a file of the user's.

The function takes a learning rate or schedule as its first argument; `optimizer_options` of the config gives its other
arguments, by name. A parameter named `declarations`, `mesh` or `settings` is given the tree of declarations of the
parameters, the mesh they lie on (None: one device), or the stage's `OptimizerSettings`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from wallwm_jax.core.errors import InputError
from wallwm_jax.optim.schedules import Schedule

OURS = ("declarations", "mesh", "settings")
"""Arguments that a function is given for the name of its parameter."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def find(name: str, known: Sequence[str]) -> Callable[..., Any]:
    """The function of that name; raises InputError if there is none, listing the `known` names of other optimizers."""
    module, colon, function = name.partition(":")
    expected = f"one of {list(known)}, or 'module:function'"
    if not colon or not module or not function:
        raise InputError("optimizer", repr(name), expected)
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # a module of the user's can raise anything while it is imported
        raise InputError("optimizer", f"{name!r} ({type(error).__name__}: {error})", expected) from error
    if not callable(found):
        raise InputError("optimizer", f"{name!r}, a {type(found).__name__}", expected)
    return found


def check_options(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
    """Raises InputError unless the function can be called with a learning rate, these options, and what it asks for."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer {name}", str(error), "a function with a signature") from error
    first = parameters[0] if parameters else None
    if first is None or first.kind not in (inspect.Parameter.POSITIONAL_ONLY, _NAMED[0]) or first.name in OURS:
        found = f"the arguments {inspect.signature(function)}"
        raise InputError(f"optimizer {name}", found, "a learning rate or schedule as the first one")
    others = [parameter for parameter in parameters[1:] if parameter.kind in _NAMED and parameter.name not in OURS]
    names = [parameter.name for parameter in others]
    open_ended = any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    for option in options:
        if option == first.name:
            raise InputError(f"optimizer_options.{option}", options[option], "the key learning_rate of the stage")
        if option not in names and (not open_ended or option in OURS):
            raise InputError(f"optimizer_options.{option}", "no argument", f"arguments of {name}: {names}")
    missing = [one.name for one in others if one.default is one.empty and one.name not in options]
    missing += [one.name for one in parameters[1:] if one.kind == one.POSITIONAL_ONLY and one.default is one.empty]
    if missing:
        raise InputError(f"optimizer {name}", f"no value for its arguments {missing}", "optimizer_options with them")


def made_by(
    function: Callable[..., Any], name: str, rate: Schedule, options: Mapping[str, Any], ours: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The function's transformation; `ours` has a value for each of `OURS`.

    Raises:
        InputError: the function raises, or returns something else than an Optax transformation.
    """
    asked = {key: value for key, value in ours.items() if key in inspect.signature(function).parameters}
    try:
        made = function(rate, **options, **asked)
    except InputError:
        raise
    except Exception as error:  # of the user's function, told of in the user's terms
        found = " ".join(f"{type(error).__name__}: {error}".split())
        expected = "a function that takes a schedule and the optimizer_options"
        raise InputError(f"optimizer {name}", found, expected) from error
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise InputError(f"optimizer {name}", type(made).__name__, "an optax.GradientTransformation")
    return made

"""Configs: plain `get_config(arg)` files, refused when a key is unknown, saved as JSON with every checkpoint."""

import ast
import difflib
import importlib.util
import json
import pathlib
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from wallwm_jax.core.errors import InputError

Section = Mapping[str, Any] | ml_collections.ConfigDict
"""A config or a part of it; a `ConfigDict` behaves like a mapping without being one."""


def load(specification: str, overrides: Iterable[str] = ()) -> ml_collections.ConfigDict:
    """Loads `path/to/file.py` or `path/to/file.py:argument` and applies `key.path=value` overrides.

    Raises InputError for a missing file, a file without `get_config`, whatever the file or its `get_config` raises
    (naming the line), an unknown key (naming the nearest), or a value of another type.
    """
    path_text, _, argument = specification.partition(":")
    path = pathlib.Path(path_text)
    if not path.is_file():
        raise InputError("--config", f"no file {path_text!r}", "a Python file with get_config()")
    config = _called(path, argument, f"--config {specification}")
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"--config {specification}", f"a {type(config).__name__}", "get_config() -> ConfigDict")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise InputError("--set", repr(override), "key.path=value")
        _assign(config, key, _literal(value))
    config.lock()
    return config


def check_keys(config: Section, allowed: Iterable[str], where: str) -> None:
    """Raises InputError naming the nearest allowed key for the first key of `config` that is not allowed."""
    allowed = sorted(allowed)
    for key in config:
        if key not in allowed:
            raise InputError(where, f"unknown key {key!r}", nearest(key, allowed))


def to_json(config: ml_collections.ConfigDict) -> str:
    """The resolved config as sorted JSON: equal texts mean equal configs."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def from_json(text: str) -> ml_collections.ConfigDict:
    """The locked config that `to_json` wrote."""
    return ml_collections.ConfigDict(json.loads(text)).lock()


def _called(path: pathlib.Path, argument: str, where: str) -> Any:
    """What `get_config` of a file returns; raises InputError for whatever goes wrong in that file."""
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise InputError(where, f"a file named {path.name!r}", "a Python file with get_config()")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError(where, "no get_config function", "get_config() -> ConfigDict")
        return module.get_config(argument) if argument else module.get_config()
    except InputError:
        raise
    except Exception as error:  # the file is a person's own program: it can raise anything
        expected = "a get_config that takes this argument" if argument else "a file whose get_config() runs"
        raise InputError(where, _said_by(error, path), expected) from error


def _said_by(error: Exception, path: pathlib.Path) -> str:
    """`ValueError: text (line 12)` on one line; the line is the last one of the file that the error came through."""
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    if isinstance(error, SyntaxError):
        numbers = [error.lineno]
    else:
        frames = traceback.extract_tb(error.__traceback__)
        numbers = [frame.lineno for frame in frames if pathlib.Path(frame.filename) == path]
    line = f" (line {numbers[-1]})" if numbers else ""
    return f"{type(error).__name__}: {text or 'no message'}{line}"


def _assign(config: ml_collections.ConfigDict, key: str, value: object) -> None:
    node = config
    *parents, last = key.split(".")
    for depth, part in enumerate([*parents, last]):
        if not isinstance(node, ml_collections.ConfigDict) or part not in node:
            names = list(node) if isinstance(node, ml_collections.ConfigDict) else []
            raise InputError(f"--set {key}", f"unknown key {part!r}", nearest(part, names))
        if depth < len(parents):
            node = node[part]
    try:
        node[last] = value
    except TypeError as error:
        raise InputError(f"--set {key}", repr(value), f"a {node.get_type(last).__name__}") from error


def nearest(key: str, allowed: list[str]) -> str:
    """What an error says is expected instead of `key`: the names that are allowed, and the most similar of them."""
    match = difflib.get_close_matches(key, allowed, n=1, cutoff=0.0)
    return f"one of {sorted(allowed)}" + (f" (nearest: {match[0]!r})" if match else "")


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

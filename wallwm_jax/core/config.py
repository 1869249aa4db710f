"""Configs: plain `get_config(arg)` files, refused when a key is unknown, saved as JSON with every checkpoint."""

import ast
import difflib
import importlib.util
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from wallwm_jax.core.errors import InputError

Section = Mapping[str, Any] | ml_collections.ConfigDict
"""A config or a part of it; a `ConfigDict` behaves like a mapping without being one."""


def load(specification: str, overrides: Iterable[str] = ()) -> ml_collections.ConfigDict:
    """Loads `path/to/file.py` or `path/to/file.py:argument` and applies `key.path=value` overrides.

    Raises InputError for a missing file, a file without `get_config`, an unknown key (naming the nearest), or a value
    of another type.
    """
    path_text, _, argument = specification.partition(":")
    path = pathlib.Path(path_text)
    if not path.is_file():
        raise InputError("--config", f"no file {path_text!r}", "a Python file with get_config()")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"--config {path_text}", "no get_config function", "get_config() -> ConfigDict")
    config = module.get_config(argument) if argument else module.get_config()
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

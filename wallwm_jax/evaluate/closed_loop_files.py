"""Finished cells of a closed loop in files, so that a drive of hours goes on where it was interrupted."""

import dataclasses
import io
import json
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wallwm_jax.core.errors import InputError
from wallwm_jax.core.files import write_durably
from wallwm_jax.evaluate.closed_loop_results import CellResult, LoopFilm

_PAIRS = ("progress_interval", "success_interval", "announced")


class CellFiles:
    """One file for every controller in every cell, `<folder>/<cell>, <controller>.npz`.

    Args:
        identity: all that decides the results, in values that JSON knows: the protocol, how many episodes, the seed.
        weights: from a controller's name, digests of the checkpoints whose parameters it uses.
    """

    def __init__(self, folder: pathlib.Path, identity: Mapping[str, Any], weights: Callable[[str], Any]):
        self.folder, self._identity, self._weights = folder, dict(identity), weights

    def find(self, cell: str, controller: str) -> CellResult | None:
        """The result, if it has been kept and what decides it is still the same.

        Raises InputError for a file that cannot be read.
        """
        path = self._path(cell, controller)
        if not path.is_file():
            return None
        try:
            with np.load(path) as arrays:
                kept = json.loads(str(arrays["result"]))
                films = [
                    LoopFilm(film["title"], film["success"], arrays[f"film_{number}"])
                    for number, film in enumerate(kept["films"])
                ]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(str(path), f"{type(error).__name__}: {error}", "a kept cell; remove it") from error
        if kept["of"] != self._of(controller):
            return None
        values = kept["cell"] | {name: tuple(kept["cell"][name]) for name in _PAIRS}
        by_verb = {verb: tuple(counts) for verb, counts in values["by_verb"].items()}
        details = tuple(values["details"])
        return CellResult(**(values | {"by_verb": by_verb, "details": details, "films": tuple(films)}))

    def keep(self, result: CellResult) -> None:
        names = [field.name for field in dataclasses.fields(result) if field.name != "films"]
        films = [{"title": film.title, "success": film.success} for film in result.films]
        cell = {name: getattr(result, name) for name in names}
        text = json.dumps({"of": self._of(result.controller), "cell": cell, "films": films})
        buffer = io.BytesIO()
        arrays = {f"film_{number}": film.frames for number, film in enumerate(result.films)}
        np.savez_compressed(buffer, result=np.array(text), **arrays)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self._path(result.cell, result.controller), buffer.getvalue())

    def _of(self, controller: str) -> Any:
        """As it is after a round through JSON."""
        return json.loads(json.dumps({**self._identity, "weights": self._weights(controller)}))

    def _path(self, cell: str, controller: str) -> pathlib.Path:
        return self.folder / (re.sub(r"[^\w, -]", "_", f"{cell}, {controller}") + ".npz")

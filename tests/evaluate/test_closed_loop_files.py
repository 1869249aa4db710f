"""A drive's finished cells: found again as they were, and only while what decides them is the same."""

import dataclasses
import json

import numpy as np
import pytest

from tests.evaluate.test_closed_loop import Climber, Ladder, run
from wallwm_jax.core.errors import InputError
from wallwm_jax.evaluate.closed_loop import compare
from wallwm_jax.evaluate.closed_loop_files import CellFiles
from wallwm_jax.simulate import environment


@pytest.fixture
def result(protocol):
    return run(Climber(), protocol())[0]


def plain(result):
    values = dataclasses.asdict(result) | {"films": [film.title for film in result.films]}
    return json.loads(json.dumps(values))


def files_of(folder, seed=0, world="w"):
    return CellFiles(folder, {"seed": seed}, lambda controller: {"world": world})


def test_a_kept_cell_is_found_as_it_was(tmp_path, result):
    """Numbers, intervals, episodes one by one, and films to the pixel."""
    files_of(tmp_path / "cells").keep(result)
    found = files_of(tmp_path / "cells").find("toy", "climber")
    assert plain(found) == plain(result)
    assert len(found.films) == len(result.films) > 0
    for kept, film in zip(found.films, result.films, strict=True):
        assert (kept.title, kept.success) == (film.title, film.success)
        np.testing.assert_array_equal(kept.frames, film.frames)


@pytest.mark.parametrize("change", [{"seed": 1}, {"world": "other"}])
def test_what_other_settings_or_weights_have_driven_is_not_found(tmp_path, result, change):
    files_of(tmp_path).keep(result)
    assert files_of(tmp_path, **change).find("toy", "climber") is None
    assert files_of(tmp_path).find("toy", "another") is None


def test_a_damaged_file_is_named(tmp_path, result):
    """It is not silently driven again: somebody has to look at it."""
    files_of(tmp_path / "cells").keep(result)
    (path,) = (tmp_path / "cells").iterdir()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"toy, climber\.npz"):
        files_of(tmp_path / "cells").find("toy", "climber")


def test_an_interrupted_drive_goes_on(tmp_path, protocol, monkeypatch):
    """The first time both controllers drive; then one file is gone, and its controller alone drives again, to the same
    numbers."""

    class Table(Ladder):
        views = environment.TabletopEnvironment.views

        def __init__(self, size):
            super().__init__()

        def close(self):
            pass

    class Second(Climber):
        name = "second"

    monkeypatch.setattr(environment, "TabletopEnvironment", Table)
    made = []

    def controllers(environments, key):
        made.append((Climber(), Second()))
        return made[-1]

    files = files_of(tmp_path)
    first = [plain(cell) for cell in compare(controllers, protocol(), 2, files=files)]
    (tmp_path / "toy, second.npz").unlink()
    again = [plain(cell) for cell in compare(controllers, protocol(), 2, files=files)]
    assert [len(climber.seen) > 0 for pair in made for climber in pair] == [True, True, False, True]
    assert again[0] == first[0]
    assert again[1] | {"seconds": 0} == first[1] | {"seconds": 0}

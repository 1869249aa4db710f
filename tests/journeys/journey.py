"""The scripts of this folder: which need a finished run, and how one is run."""

import pathlib
import runpy
import sys

RUN_FOLDER = "sys.argv[1]"
"""How a script says that it works on a finished run's folder, which it is given."""
MOST_LINES = 15


def scripts(from_a_run: bool) -> list[pathlib.Path]:
    """Those that start from a finished run, or the others."""
    paths = sorted((pathlib.Path(__file__).parent / "scripts").glob("*.py"))
    return [path for path in paths if (RUN_FOLDER in path.read_text()) == from_a_run]


def take(script, monkeypatch, folder, *arguments):
    """Runs a script in an empty folder; its own asserts hold, it is short, and imports nothing from tests/."""
    text = script.read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", '"""'))]
    assert len(lines) <= MOST_LINES, f"{script.name}: {len(lines)} lines"
    assert "tests" not in text
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(folder)
    runpy.run_path(str(script), run_name="__main__")

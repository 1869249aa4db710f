"""What a new user does, each as a script of at most fifteen lines: it runs, and its own asserts hold."""

import pathlib
import runpy
import sys

import pytest

SCRIPTS = sorted((pathlib.Path(__file__).parent / "scripts").glob("*.py"))
RUN_FOLDER = "sys.argv[1]"
"""How a script says that it works on a finished run's folder, which it is given."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_journey_takes_fifteen_lines_and_runs(script, request, monkeypatch, tmp_path):
    """In an empty folder, with nothing imported from tests/."""
    text = script.read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", '"""'))]
    assert len(lines) <= 15, f"{script.name}: {len(lines)} lines"
    assert "tests" not in text
    arguments = [str(request.getfixturevalue("run_folder"))] if RUN_FOLDER in text else []
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")

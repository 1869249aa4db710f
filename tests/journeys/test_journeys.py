"""What a new user does, each as a script of at most fifteen lines. Those that start from a trained run are taken where
the command line has made one (tests/cli/test_pipeline.py)."""

import pytest

from tests.journeys.journey import scripts, take


@pytest.mark.parametrize("script", scripts(from_a_run=False), ids=lambda path: path.stem)
def test_a_journey_takes_fifteen_lines_and_runs(script, monkeypatch, tmp_path):
    take(script, monkeypatch, tmp_path)

#!/usr/bin/env bash
# The whole check: a virtual environment, the package with its test extras, ruff, pytest. Needs Python >= 3.11 and pip.
#   bash test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")"
source ./environment.sh
prepare_environment .venv-test ".[dev]"
ruff check .
ruff format --check .
# A file stays with one worker, which makes what its tests share once; the longest come first (tests/conftest.py).
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15 "$@"

#!/usr/bin/env bash
# The whole check: a virtual environment, the package with its test extras, ruff, pytest. Needs Python >= 3.11 and pip.
#   bash test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")"
source ./environment.sh
prepare_environment .venv-test ".[dev]"
ruff check .
ruff format --check .
python -m pytest -n 2 --durations=15 "$@"

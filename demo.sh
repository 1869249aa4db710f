#!/usr/bin/env bash
# Watch it work: curates the recorded sample, trains three stages, evaluates on held-out episodes and writes a report.
# Needs Python >= 3.11 and pip; no GPU, no account. Ten minutes on two fast cores after the installation, 17 on slow ones.
#   bash demo.sh [run folder, default runs/demo]
set -euo pipefail
cd "$(dirname "$0")"
source ./environment.sh
prepare_environment .venv ".[viz]"
workdir=${1:-runs/demo}
wallwm run --config experiments/tabletop.py:demo --workdir "$workdir"

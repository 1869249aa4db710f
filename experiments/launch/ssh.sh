#!/usr/bin/env bash
# Trains one stage on hosts that can be reached by ssh, one process each; the first one named is the coordinator.
#   HOSTS="a b c d" bash experiments/launch/ssh.sh
# Every host has this checkout with its virtual environment at CHECKOUT, and the runs at the same path. To stop, send
# SIGTERM to the Python process of any one host: all save and leave.
set -euo pipefail
read -r -a hosts <<<"${HOSTS:?names of the hosts}"
CHECKOUT=${CHECKOUT:-wallwm} PORT=${PORT:-8476}
CONFIG=${CONFIG:-experiments/wan.py:5b} STAGE=${STAGE:-1} RUN=${RUN:-/mnt/runs/wan5b}
for process in "${!hosts[@]}"; do
  ssh "${hosts[$process]}" "cd $CHECKOUT && exec .venv/bin/wallwm train --config $CONFIG --workdir $RUN --stage $STAGE \
    --coordinator ${hosts[0]}:$PORT --processes ${#hosts[@]} --process $process" &
done
status=0
for job in $(jobs -p); do wait "$job" || status=$?; done
exit "$status"

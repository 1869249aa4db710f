#!/usr/bin/env bash
# Trains one stage on hosts that can be reached by ssh, one process each; the first one named is the coordinator.
#   HOSTS="a b c d" bash experiments/launch/ssh.sh
# Every host has this checkout with its virtual environment at CHECKOUT, and the runs at the same path.
# SIGTERM to the Python process of any one host: all save and leave with code 75 (asked to stop before the end), and the
# stage is started again, at most RESTARTS times. To stop for good end this script first, then send SIGTERM.
set -euo pipefail
read -r -a hosts <<<"${HOSTS:?names of the hosts}"
CHECKOUT=${CHECKOUT:-wallwm} PORT=${PORT:-8476} RESTARTS=${RESTARTS:-100}
CONFIG=${CONFIG:-experiments/wan.py:5b} STAGE=${STAGE:-1} RUN=${RUN:-/mnt/runs/wan5b}
UNFINISHED=75

# Leaves with 75 if any process did (others may then have missed it), else with the first code that is not 0.
train() {
  local process job status=0 code jobs=()
  for process in "${!hosts[@]}"; do
    ssh "${hosts[$process]}" "cd $CHECKOUT && exec .venv/bin/wallwm train --config $CONFIG --workdir $RUN \
      --stage $STAGE --coordinator ${hosts[0]}:$PORT --processes ${#hosts[@]} --process $process" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do
    code=0; wait "$job" || code=$?
    if [ "$code" -ne 0 ] && { [ "$status" -eq 0 ] || [ "$code" -eq "$UNFINISHED" ]; }; then status=$code; fi
  done
  return "$status"
}

for ((attempt = 0; attempt <= RESTARTS; attempt++)); do
  status=0; train || status=$?
  [ "$status" -eq "$UNFINISHED" ] || exit "$status"
  echo "stage $STAGE was asked to stop before its end; starting it again" >&2
done
exit "$UNFINISHED"

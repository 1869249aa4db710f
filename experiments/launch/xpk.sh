#!/usr/bin/env bash
# Trains one stage as a workload of a GKE cluster that xpk has made (pip install xpk), on one or more slices.
#   PROJECT=p ZONE=us-east5-a CLUSTER=c IMAGE=gcr.io/p/wallwm bash experiments/launch/xpk.sh
# IMAGE holds Python >= 3.11, this checkout as its working directory, and `pip install . 'jax[tpu]'`. The cluster mounts
# the file system with the runs at /mnt/runs in every pod (`xpk storage attach`).
# A process that is asked to stop (a pod that is evicted gets SIGTERM) saves and leaves with code 75, on which the
# workload is started again, as after a lost host, at most RESTARTS times. GRACE is how many seconds a pod has to save.
set -euo pipefail
: "${PROJECT:?}" "${ZONE:?}" "${CLUSTER:?}" "${IMAGE:?}"
NAME=${NAME:-wallwm} TYPE=${TYPE:-v5p-128} SLICES=${SLICES:-1} RESTARTS=${RESTARTS:-100} GRACE=${GRACE:-120}
CONFIG=${CONFIG:-experiments/wan.py:5b} STAGE=${STAGE:-1} RUN=${RUN:-/mnt/runs/wan5b}
xpk workload create --project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER" --workload="$NAME" \
  --tpu-type="$TYPE" --num-slices="$SLICES" --docker-image="$IMAGE" \
  --max-restarts="$RESTARTS" --restart-on-exit-codes=75 --termination-grace-period-seconds="$GRACE" \
  --command="wallwm train --config $CONFIG --workdir $RUN --stage $STAGE --coordinator auto"

#!/usr/bin/env bash
# Asks Cloud TPU for a slice, waits for it, installs this checkout on every host and trains one stage there.
#   PROJECT=p ZONE=us-east5-a NFS=10.0.0.2:/runs bash experiments/launch/queued_resources.sh
# A stage that was asked to stop (code 75) is started again on every host, at most RESTARTS times. If the slice is taken
# away, this script fails, and the same command goes on where the stage was interrupted once there is a slice again. The
# slice is not deleted: see the last line.
set -euo pipefail
: "${PROJECT:?}" "${ZONE:?}" "${NFS:?host:/path of a file system that all hosts can mount}"
# Types of v5p count cores, two a chip: v5p-128 is 4x4x4 chips.
NAME=${NAME:-wallwm} TYPE=${TYPE:-v5p-128} RUNTIME=${RUNTIME:-v2-alpha-tpuv5}
CONFIG=${CONFIG:-experiments/wan.py:5b} STAGE=${STAGE:-1} RUN=${RUN:-/mnt/runs/wan5b} RESTARTS=${RESTARTS:-100}
gcloud config set project "$PROJECT"

describe() { gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)'; }
if ! describe >/dev/null 2>&1; then
  gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME"
fi
until [ "$(describe)" = ACTIVE ]; do sleep 60; done

on_every_host() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }
git archive --format=tar.gz --output=/tmp/wallwm.tar.gz HEAD
gcloud compute tpus tpu-vm scp /tmp/wallwm.tar.gz "$NAME:/tmp/" --zone="$ZONE" --worker=all
on_every_host "set -e; mkdir -p wallwm; tar xzf /tmp/wallwm.tar.gz -C wallwm; cd wallwm
  sudo apt-get install -qq nfs-common python3-venv; sudo mkdir -p /mnt/runs
  mountpoint -q /mnt/runs || sudo mount '$NFS' /mnt/runs
  [ -d .venv ] || python3 -m venv .venv; .venv/bin/pip install -q . 'jax[tpu]'"
# gcloud does not hand on the exit code of a host, so each host starts its own process again: all of them leave a stage
# after the same step, with the same code.
on_every_host "cd wallwm; code=75
  for attempt in \$(seq 0 $RESTARTS); do
    [ \$code -eq 75 ] || break
    code=0; .venv/bin/wallwm train --config $CONFIG --workdir $RUN --stage $STAGE --coordinator auto || code=\$?
  done
  exit \$code"
echo "done; gcloud compute tpus queued-resources delete $NAME --zone=$ZONE --force gives the slice back"

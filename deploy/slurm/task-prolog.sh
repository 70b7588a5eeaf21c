#!/bin/sh
# Slurm TaskProlog (slurm.conf: TaskProlog=/etc/slurm/rankscope-task-prolog.sh): tells every task where its node's agent
# is. Rank, world size and job come from Slurm's own variables.
socket="${RANKSCOPE_SOCKET:-/run/rankscope/agent.sock}"
if [ -S "$socket" ]; then
  echo "export RANKSCOPE_AGENT=unix:$socket"
fi

#!/bin/sh
# Slurm Prolog (slurm.conf: Prolog=/etc/slurm/rankscope-prolog.sh): writes which job holds which GPU, one file a GPU with
# one job a line, as dcgm-exporter (--hpc-job-mapping-dir) reads it.
set -eu
folder="${RANKSCOPE_JOB_MAPPING:-/run/rankscope/jobs}"
[ -n "${SLURM_JOB_GPUS:-}" ] || exit 0
umask 022
mkdir -p "$folder"
for gpu in $(printf '%s' "$SLURM_JOB_GPUS" | tr ',' ' '); do
  case "$gpu" in *[!0-9]* | '') continue ;; esac
  printf '%s\n' "$SLURM_JOB_ID" >>"$folder/$gpu"
done

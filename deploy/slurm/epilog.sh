#!/bin/sh
# Slurm Epilog (slurm.conf: Epilog=/etc/slurm/rankscope-epilog.sh): the job no longer holds its GPUs.
set -eu
folder="${RANKSCOPE_JOB_MAPPING:-/run/rankscope/jobs}"
for file in "$folder"/[0-9]*; do
  [ -f "$file" ] || continue
  grep -vx "$SLURM_JOB_ID" "$file" >"$file.new" || true
  if [ -s "$file.new" ]; then mv "$file.new" "$file"; else rm -f "$file" "$file.new"; fi
done

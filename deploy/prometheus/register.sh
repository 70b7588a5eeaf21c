#!/bin/sh
# Tells Prometheus of this node: writes FOLDER/<node>.json for file_sd_configs. With systemd, after the agent has started:
#   ExecStartPost=/opt/rankscope/register.sh /shared/prometheus/targets
# For http_sd_configs let any web server serve what `register.sh --list FOLDER` prints.
set -eu
usage() {
  echo "usage: register.sh FOLDER [HOST:PORT [LABEL=VALUE ...]] | --remove FOLDER | --list FOLDER" >&2
  exit 2
}
name=$(uname -n)
case "${1:-}" in
  --remove) [ $# -eq 2 ] || usage; rm -f "$2/$name.json"; exit 0 ;;
  --list)
    [ $# -eq 2 ] || usage
    first=1
    printf '['
    for file in "$2"/*.json; do
      [ -f "$file" ] || continue
      [ "$first" = 1 ] || printf ','
      first=0
      sed -e 's/^\[//' -e 's/\]$//' "$file" | tr -d '\n'
    done
    printf ']\n'
    exit 0
    ;;
  '' | -*) usage ;;
esac
folder=$1
address=${2:-$name:9780}
[ $# -ge 2 ] && shift
shift
case "$address" in *[!A-Za-z0-9.:_-]*) usage ;; esac
labels=""
for pair in "$@"; do
  case "$pair" in *[!A-Za-z0-9._=:/-]* | =* | [!A-Za-z_]*) usage ;; *=*) ;; *) usage ;; esac
  labels="$labels${labels:+, }\"${pair%%=*}\": \"${pair#*=}\""
done
mkdir -p "$folder"
printf '[{"targets": ["%s"], "labels": {%s}}]\n' "$address" "$labels" >"$folder/.$name.new"
mv "$folder/.$name.new" "$folder/$name.json"

"""Makes prometheusrule.yaml and dashboards.yaml from the rules and dashboards; `--check` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEAD = "# Made by generate.py from {source}: do not edit.\n"


def rules() -> str:
    groups = [
        group
        for path in sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "rankscope", "namespace": "rankscope"},
        "spec": {"groups": groups},
    }
    return HEAD.format(source="../prometheus/rules") + yaml.safe_dump(rule, sort_keys=False, width=120)


def dashboards() -> str:
    maps = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": path.stem,
                "namespace": "rankscope",
                "labels": {"grafana_dashboard": "1"},
                "annotations": {"grafana_folder": "Rankscope"},
            },
            "data": {path.name: json.dumps(json.loads(path.read_text()), ensure_ascii=False, separators=(",", ":"))},
        }
        for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
    ]
    return HEAD.format(source="../../grafana/dashboards") + yaml.safe_dump_all(
        maps, sort_keys=False, allow_unicode=True, width=2**31
    )


def main(arguments: list[str]) -> int:
    stale = 0
    for name, text in (("prometheusrule.yaml", rules()), ("dashboards.yaml", dashboards())):
        path = HERE / name
        if path.exists() and path.read_text() == text:
            continue
        stale = 1
        if "--check" in arguments:
            print(f"{path}: out of date: run python deploy/kubernetes/generate.py", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {path}")
    return stale if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

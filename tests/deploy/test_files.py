"""What is deployed is valid: compose, Kubernetes, systemd, Slurm, ways to find targets."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rankscope.agent.config import load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRIPTS = sorted([*DEPLOY.glob("**/*.sh")])
MANIFESTS = [
    (path.name, document)
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True, env={**os.environ, **(env or {})}
    )


# --- compose ----------------------------------------------------------------------------------------------------------


def test_compose_listens_on_this_machine_alone() -> None:
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_compose_pins_what_it_pulls_and_watches_what_it_starts() -> None:
    for name, service in COMPOSE["services"].items():
        assert ":" in service["image"], name
        assert not service["image"].endswith(":latest"), name
        assert "healthcheck" in service or service["build"]["dockerfile"] == "deploy/Dockerfile", name


def test_compose_has_no_default_password() -> None:
    text = (DEPLOY / "compose.yaml").read_text().lower()
    assert "password" not in text


def test_the_files_that_compose_mounts_are_there() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"


def test_compose_is_valid(require: Callable[..., str]) -> None:
    program = require("docker-compose", why="apt-get install docker-compose")
    for files in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
        arguments = [part for name in files for part in ("-f", str(DEPLOY / name))]
        checked = run(program, *arguments, "config", "-q")
        assert checked.returncode == 0, checked.stderr


def test_the_agents_file_in_compose_loads() -> None:
    config = load(DEPLOY / "compose" / "rankscope.yaml")
    assert config.http.address == ("0.0.0.0", 9780)


def test_prometheus_and_alertmanager_take_their_files_in_compose(require: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "rules").symlink_to(DEPLOY / "prometheus" / "rules")
    (tmp_path / "prometheus.yml").write_text((DEPLOY / "compose" / "prometheus.yml").read_text())
    checked = run(require("promtool"), "check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("rules found") == 2
    checked = run(require("amtool"), "check-config", DEPLOY / "compose" / "alertmanager.yml")
    assert checked.returncode == 0, checked.stderr


# --- Grafana ----------------------------------------------------------------------------------------------------------


def test_grafana_is_provisioned_with_what_the_dashboards_ask_for() -> None:
    provisioning = DEPLOY.parent / "grafana" / "provisioning"
    [file] = (provisioning / "datasources").glob("*.yaml")
    sources = {source["type"]: source for source in yaml.safe_load(file.read_text())["datasources"]}
    assert sources["prometheus"]["jsonData"]["alertmanagerUid"] == sources["alertmanager"]["uid"]
    interval = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert sources["prometheus"]["jsonData"]["timeInterval"] == interval
    [file] = (provisioning / "dashboards").glob("*.yaml")
    [provider] = yaml.safe_load(file.read_text())["providers"]
    assert (provider["disableDeletion"], provider["allowUiUpdates"]) == (True, False)
    mounts = COMPOSE["services"]["grafana"]["volumes"]
    assert f"../grafana/dashboards:{provider['options']['path']}:ro" in mounts


# --- Kubernetes -------------------------------------------------------------------------------------------------------


# The kinds of kustomize and of the Prometheus operator are not Kubernetes' own: it publishes no schema of them.
OWN = [(n, m) for n, m in MANIFESTS if not any(s in m["apiVersion"] for s in ("monitoring.coreos.com", "kustomize"))]


@pytest.mark.parametrize(("name", "manifest"), OWN, ids=lambda part: part if isinstance(part, str) else part["kind"])
def test_a_manifest_fits_kubernetes_own_schema(
    name: str, manifest: dict[str, Any], require_library: Callable[[str], None]
) -> None:
    require_library("kubernetes_validate")
    validate: Any = importlib.import_module("kubernetes_validate")
    validate.validate(manifest, validate.latest_version(), strict=True)


def test_rules_and_dashboards_for_kubernetes_are_made_from_the_others() -> None:
    checked = run(sys.executable, DEPLOY / "kubernetes" / "generate.py", "--check")
    assert checked.returncode == 0, checked.stderr


def test_kustomize_names_every_manifest_but_the_example() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    present = {name for name, _ in MANIFESTS} - {"kustomization.yaml", "training.yaml"}
    assert set(kustomization["resources"]) == present


def test_the_agents_file_in_kubernetes_loads(tmp_path: Path) -> None:
    [config] = [manifest for name, manifest in MANIFESTS if name == "config.yaml"]
    (tmp_path / "rankscope.yaml").write_text(config["data"]["rankscope.yaml"])
    load(tmp_path / "rankscope.yaml")


def test_a_config_map_is_small_enough() -> None:
    for name, manifest in MANIFESTS:
        if manifest["kind"] == "ConfigMap":
            assert len(yaml.safe_dump(manifest)) < 1_000_000, name


# --- systemd, Slurm, targets ------------------------------------------------------------------------------------------


def test_the_unit_is_clean(require: Callable[..., str], tmp_path: Path) -> None:
    program = require("systemd-analyze")
    text = (DEPLOY / "systemd" / "rankscope.service").read_text()
    unit = tmp_path / "rankscope.service"
    unit.write_text(text.replace("/opt/rankscope/bin/rankscope", sys.executable))
    checked = run(program, "verify", unit)
    assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)


def test_the_folder_that_containers_mount_outlives_a_restart_of_the_agent() -> None:
    """Whoever mounts a folder holds it, not its name: one that systemd makes anew is another one."""
    lines = (DEPLOY / "systemd" / "rankscope.service").read_text().splitlines()
    assert {"RuntimeDirectory=rankscope", "RuntimeDirectoryPreserve=yes"} <= set(lines)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(require: Callable[..., str], script: Path) -> None:
    checked = run(require("shellcheck"), script)
    assert checked.returncode == 0, checked.stdout


def test_slurm_knows_which_job_holds_which_gpu(tmp_path: Path) -> None:
    slurm = DEPLOY / "slurm"
    environment = {"RANKSCOPE_JOB_MAPPING": str(tmp_path)}
    for job, gpus in (("17", "0,1"), ("18", "1,3"), ("19", "../x,2;rm")):
        assert (
            run(slurm / "prolog.sh", env={**environment, "SLURM_JOB_ID": job, "SLURM_JOB_GPUS": gpus}).returncode == 0
        )
    assert {path.name: path.read_text().split() for path in tmp_path.iterdir()} == {
        "0": ["17"],
        "1": ["17", "18"],
        "3": ["18"],
    }
    assert run(slurm / "epilog.sh", env={**environment, "SLURM_JOB_ID": "17"}).returncode == 0
    assert {path.name: path.read_text().split() for path in tmp_path.iterdir()} == {"1": ["18"], "3": ["18"]}


def test_slurm_tells_tasks_where_the_agent_is_only_where_one_is(tmp_path: Path) -> None:
    script = DEPLOY / "slurm" / "task-prolog.sh"
    assert run(script, env={"RANKSCOPE_SOCKET": str(tmp_path / "none.sock")}).stdout == ""


def test_a_node_registers_and_takes_itself_away(tmp_path: Path) -> None:
    script = DEPLOY / "prometheus" / "register.sh"
    assert run(script, tmp_path, "node7:9780", "cluster=a", "rack=r1").returncode == 0
    expected = [{"targets": ["node7:9780"], "labels": {"cluster": "a", "rack": "r1"}}]
    [file] = tmp_path.glob("*.json")
    assert json.loads(file.read_text()) == expected
    (tmp_path / "other.json").write_text('[{"targets": ["node8:9780"], "labels": {}}]\n')
    assert {entry["targets"][0] for entry in json.loads(run(script, "--list", tmp_path).stdout)} == {
        "node7:9780",
        "node8:9780",
    }
    assert run(script, "--remove", tmp_path).returncode == 0
    assert [path.name for path in tmp_path.glob("*.json")] == ["other.json"]


@pytest.mark.parametrize(
    "wrong", [[], ["--nothing"], ["{}", 'x"y:1'], ["{}", "a:1", "label"], ["{}", "a:1", 'l=a"b'], ["{}", "a:1", "=b"]]
)
def test_what_is_no_target_is_refused(tmp_path: Path, wrong: list[str]) -> None:
    refused = run(DEPLOY / "prometheus" / "register.sh", *(part.replace("{}", str(tmp_path)) for part in wrong))
    assert refused.returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "example",
    sorted([*(DEPLOY / "prometheus").glob("scrape/*.yaml"), *(DEPLOY / "prometheus").glob("remote-write/*.yaml")]),
    ids=lambda path: path.stem,
)
def test_an_example_for_prometheus_is_valid(require: Callable[..., str], example: Path, tmp_path: Path) -> None:
    # Debian's Prometheus is built without the discovery of Kubernetes: an empty list of files stands in for it.
    stand_in = yaml.safe_load(example.read_text())
    for scrape in stand_in.get("scrape_configs", []):
        if scrape.pop("kubernetes_sd_configs", None) is not None:
            scrape["file_sd_configs"] = [{"files": ["none.json"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(stand_in))
    checked = run(require("promtool"), "check", "config", "--syntax-only", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    job = yaml.safe_load(example.read_text()).get("scrape_configs", [{"job_name": "rankscope"}])[0]["job_name"]
    assert job == "rankscope", "the rules look for it"

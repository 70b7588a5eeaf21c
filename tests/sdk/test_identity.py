"""Every rank of a job comes to the same run without a word between them; a second launch is a new one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rankscope.sdk._identity import Identity, identify, process_identity, start_ticks


def torchrun(rank: int = 0, **more: str) -> dict[str, str]:
    launch = more.pop("launch", "abc/none_1")
    attempt = more.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % 4),
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_ERROR_FILE": f"/tmp/torchelastic_{launch}/attempt_{attempt}/{rank}/error.json",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    } | more


def test_ranks_of_one_launch_are_one_run() -> None:
    ranks = [identify(torchrun(rank)) for rank in range(4)]
    assert len({rank.run_id for rank in ranks}) == len({rank.launch_id for rank in ranks}) == 1
    assert [rank.rank for rank in ranks] == [rank.local_rank for rank in ranks] == [0, 1, 2, 3]
    assert {(rank.world_size, rank.local_world_size, rank.launcher) for rank in ranks} == {(4, 4, "torchrun")}


def test_a_restart_is_the_next_attempt_of_the_same_run() -> None:
    first, again = identify(torchrun()), identify(torchrun(TORCHELASTIC_RESTART_COUNT="1"))
    assert (first.run_id, first.launch_id) == (again.run_id, again.launch_id)
    assert (first.attempt, again.attempt) == (0, 1)


@pytest.mark.parametrize("given", ["none", "my-job"])
def test_a_second_launch_on_one_node_is_a_new_run_even_with_the_same_rendezvous_id(given: str) -> None:
    first = identify(torchrun(TORCHELASTIC_RUN_ID=given, launch="a/x"))
    second = identify(torchrun(TORCHELASTIC_RUN_ID=given, launch="b/x"))
    assert first.run_id != second.run_id
    assert first.launch_id != second.launch_id


def test_nodes_of_one_job_agree_on_the_run_and_have_launches_of_their_own() -> None:
    one = identify(torchrun(0, WORLD_SIZE="8", TORCHELASTIC_RUN_ID="job7", launch="node1/x"))
    two = identify(torchrun(4, WORLD_SIZE="8", TORCHELASTIC_RUN_ID="job7", launch="node2/y", GROUP_RANK="1"))
    assert one.run_id == two.run_id
    assert one.launch_id != two.launch_id
    assert (one.node_rank, two.node_rank) == (0, 1)
    other = identify(torchrun(0, WORLD_SIZE="8", TORCHELASTIC_RUN_ID="job8", launch="node1/x"))
    assert other.run_id != one.run_id


@pytest.mark.e2e
def test_real_torchrun_agrees_over_ranks_and_differs_over_launches(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import os\nfrom rankscope.sdk._identity import identify\ni = identify(os.environ)\n"
        "open(f'{os.environ[\"OUT\"]}.{i.rank}', 'w').write(f'{i.run_id} {i.launch_id} {i.launcher} {i.world_size}')"
    )
    seen: list[set[str]] = []
    for launch in range(2):
        command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29533", str(script)]
        environ = {**os.environ, "OUT": str(tmp_path / f"out{launch}"), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *command], env=environ, check=True, timeout=100)
        seen.append({(tmp_path / f"out{launch}.{rank}").read_text() for rank in range(2)})
    assert [len(one) for one in seen] == [1, 1]
    assert all(text.endswith(" torchrun 2") for one in seen for text in one)
    assert {text.split()[0] for text in seen[0]} != {text.split()[0] for text in seen[1]}


SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_NTASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_RESTART_COUNT": "2",
}


def test_slurm() -> None:
    found = identify(SLURM)
    expected = Identity(found.run_id, 5, 1, 7, 3, 1, 2, "77", found.launch_id, "slurm")
    assert found == expected
    other = identify(SLURM | {"SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"})
    assert (other.run_id, other.local_world_size) == (found.run_id, 4)
    assert identify(SLURM | {"SLURM_STEP_ID": "1"}).run_id != found.run_id


def test_a_script_run_without_srun_inside_a_batch_job_is_alone() -> None:
    environ = {key: value for key, value in SLURM.items() if "STEP" not in key} | {"SLURM_PROCID": "0"}
    found = identify(environ)
    assert (found.rank, found.world_size, found.launcher) == (0, 1, "none")


def test_torchrun_under_srun_is_torchrun() -> None:
    assert identify(SLURM | torchrun(2)).launcher == "torchrun"


def test_open_mpi() -> None:
    environ = {
        "OMPI_COMM_WORLD_RANK": "5",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
        "PMIX_NAMESPACE": "prterun-host-77@1",
    }
    found = identify(environ)
    assert (found.rank, found.local_rank, found.world_size, found.node_rank) == (5, 1, 8, 1)
    assert found.launcher == "openmpi"
    assert identify(environ | {"OMPI_COMM_WORLD_RANK": "0"}).run_id == found.run_id
    assert identify(environ | {"PMIX_NAMESPACE": "prterun-host-78@1"}).run_id != found.run_id


def test_alone_each_process_is_a_run() -> None:
    one, two = identify({}), identify({})
    assert one.run_id != two.run_id
    assert (one.rank, one.world_size, one.launcher) == (0, 1, "none")


def test_ranks_set_by_hand_share_the_run_of_their_parent() -> None:
    ranks = [identify({"RANK": str(rank), "WORLD_SIZE": "2"}) for rank in range(2)]
    assert ranks[0].run_id == ranks[1].run_id
    assert [rank.local_rank for rank in ranks] == [0, 1]


def test_what_is_given_wins() -> None:
    assert identify(torchrun(RANKSCOPE_RUN_ID="env")).run_id == "env"
    assert identify(torchrun(RANKSCOPE_RUN_ID="env"), "argument").run_id == "argument"


def test_a_second_init_in_a_process_is_another_run_on_every_rank_alike() -> None:
    ids = [{identify(torchrun(rank), nth=nth).run_id for rank in range(2)} for nth in range(3)]
    assert [len(found) for found in ids] == [1, 1, 1]
    assert len(set.union(*ids)) == 3


@pytest.mark.parametrize("value", ["", "x", "-1", "9" * 50, "1.5"])
def test_nonsense_in_the_environment_is_survived(value: str) -> None:
    found = identify(torchrun(RANK=value, WORLD_SIZE=value, LOCAL_RANK=value, TORCHELASTIC_RESTART_COUNT=value))
    assert 0 <= found.rank < found.world_size <= 2**31
    assert identify(SLURM | dict.fromkeys(SLURM, value)).rank >= 0


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    assert start_ticks(os.getpid()) > 0
    assert process_identity(os.getpid()) == process_identity(os.getpid())
    assert process_identity(os.getpid()) != process_identity(os.getppid())
    assert start_ticks(2**22 + 1) == 0

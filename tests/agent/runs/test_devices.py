"""Which GPU a rank runs on, as the samples change."""

from __future__ import annotations

import time

from rankscope.agent.model import Metric, RankInfo, RankKey, Sample
from rankscope.agent.runs.devices import Device, Devices
from rankscope.agent.runs.state import Node

INFO = Metric("gpu_info", "info", "", ("gpu", "uuid", "simulated"))
INFO_NAMED = Metric("gpu_info", "info", "", ("gpu", "uuid", "name", "simulated"))
MIG = Metric("mig_info", "info", "", ("gpu", "uuid", "gpu_uuid", "gpu_instance", "compute_instance"))
USED = Metric("gpu_process_memory_bytes", "gauge", "", ("gpu", "uuid", "run", "rank"))


def rank_of(node: Node, **fields: object) -> Device | None:
    info = RankInfo(RankKey("p", "r", 0), 1, "id", **fields)  # type: ignore[arg-type]
    return Devices(node).of(node.attach(info, time.time()))


def gpus(*samples: Sample) -> Node:
    node = Node("n")
    cards = [Sample(INFO, 1.0, (str(i), f"GPU-{i}abc", "false")) for i in range(3)]
    node.observe("gpu", [*cards, *samples], 1.0)
    return node


def test_the_uuids_that_a_rank_names_come_first() -> None:
    used = Sample(USED, 1.0, ("0", "GPU-0abc", "r", "0"))
    assert rank_of(gpus(used), device_uuids=("GPU-2abc",)) == ("2", "GPU-2abc")
    assert rank_of(gpus(), device_uuids=("GPU-0abc", "GPU-1abc"), local_rank=1) == ("1", "GPU-1abc")


def test_a_mig_instance_has_the_index_of_its_gpu() -> None:
    node = gpus(Sample(MIG, 1.0, ("1", "MIG-7", "GPU-1abc", "3", "0")))
    assert rank_of(node, device_uuids=("MIG-7",)) == ("1", "MIG-7")
    assert rank_of(node, visible_devices="MIG-7") == ("1", "MIG-7")


def test_visible_devices_are_indices_or_uuids_in_the_order_of_local_ranks() -> None:
    assert rank_of(gpus(), visible_devices="2,1", local_rank=1) == ("1", "GPU-1abc")
    assert rank_of(gpus(), visible_devices="GPU-2ab") == ("2", "GPU-2abc")
    assert rank_of(gpus()) is None


def test_what_the_process_tables_say_is_seen_as_soon_as_it_is_sampled() -> None:
    node = gpus()
    assert rank_of(node) is None
    node.observe("gpu", [Sample(USED, 1.0, ("1", "GPU-1abc", "r", "0"))], 2.0)
    assert rank_of(node) == ("1", "GPU-1abc")
    node.fail("gpu", "gone")
    assert rank_of(node) is None


def test_the_beginning_of_a_uuid_is_enough_as_it_is_for_cuda() -> None:
    """The SDK tells the uuids as they stand in CUDA_VISIBLE_DEVICES."""
    node = gpus(Sample(MIG, 1.0, ("1", "MIG-7d0e", "GPU-1abc", "3", "0")))
    assert rank_of(node, device_uuids=("GPU-2ab",)) == ("2", "GPU-2abc")
    assert rank_of(node, device_uuids=("MIG-7d",)) == ("1", "MIG-7d0e")
    assert rank_of(node, device_uuids=("GPU-9",)) == ("", "GPU-9"), "of another node, or hidden from the agent"
    twins = gpus(Sample(INFO, 1.0, ("3", "GPU-2abd", "false")), Sample(INFO, 1.0, ("4", "GPU-2abde", "false")))
    assert rank_of(twins, device_uuids=("GPU-2ab",)) == ("", "GPU-2ab"), "it is that of three"
    assert rank_of(twins, device_uuids=("GPU-2abd",)) == ("3", "GPU-2abd"), "a whole uuid is its own"


def test_mig_instances_have_an_older_name_too() -> None:
    """MIG-<GPU's uuid>/<GPU instance>/<compute instance>, which CUDA still takes."""
    mig = [Sample(MIG, 1.0, ("1", f"MIG-{i}", "GPU-1abc", str(i), "0")) for i in range(2)]
    assert rank_of(gpus(*mig), device_uuids=("MIG-GPU-1abc/1/0",)) == ("1", "MIG-1")


def test_what_follows_the_first_name_that_is_none_is_hidden() -> None:
    assert rank_of(gpus(), visible_devices="2,-1,1", local_rank=1) == ("2", "GPU-2abc")
    assert rank_of(gpus(), visible_devices="-1") is None
    assert rank_of(gpus(), visible_devices="NoDevFiles") is None


def test_of_several_gpus_a_rank_runs_on_the_one_on_which_it_holds_most() -> None:
    """A few hundred MiB on the first card are the context that many a library opens there."""
    big, small = (Sample(USED, size, (str(i), f"GPU-{i}abc", "r", "0")) for size, i in ((9e9, 1), (5e8, 2)))
    assert rank_of(gpus(small, big)) == rank_of(gpus(big, small)) == ("1", "GPU-1abc")
    assert rank_of(gpus(big), visible_devices="0,1,2", local_rank=2) == ("1", "GPU-1abc"), "what it uses, not could"


def test_on_a_gpu_with_mig_a_rank_runs_on_one_instance() -> None:
    """CUDA takes the GPU's uuid for its first instance."""
    mig = [Sample(MIG, 1.0, ("1", f"MIG-{i}", "GPU-1abc", str(i), "0")) for i in range(2)]
    used = Sample(USED, 1.0, ("1", "MIG-1", "r", "0"))
    node = gpus(*mig, used)
    device = rank_of(node, device_uuids=("GPU-1abc",))
    assert device == ("1", "MIG-1")
    assert Devices(node).board(device) == "GPU-1abc"
    assert rank_of(gpus(*mig), visible_devices="1") == ("1", "GPU-1abc"), "an index is a GPU's"

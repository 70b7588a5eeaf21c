"""Which GPU a rank runs on, as the samples change."""

from __future__ import annotations

import time

from rankscope.agent.model import Metric, RankInfo, RankKey, Sample
from rankscope.agent.runs.devices import Device, Devices
from rankscope.agent.runs.state import Node

INFO = Metric("gpu_info", "info", "", ("gpu", "uuid", "simulated"))
MIG = Metric("mig_info", "info", "", ("gpu", "uuid"))
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
    node = gpus(Sample(MIG, 1.0, ("1", "MIG-7")))
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

"""CUDA_VISIBLE_DEVICES is read as CUDA reads it; torch, which does the same, is the judge."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankscope.agent.model import Sample
from rankscope.agent.runs.devices import visible
from tests.agent.runs.test_devices import INFO_NAMED, gpus, rank_of

cuda = pytest.importorskip("torch.cuda")

PARTS = (
    "0",
    "1",
    "2",
    "01",
    "+1",
    "-1",
    "-0",
    "1gpu",
    " 1 ",
    "",
    " ",
    "GPU-0abc",
    "GPU-1",
    "MIG-7",
    " GPU-1",
    "NoDevFiles",
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PARTS), max_size=5).map(",".join))
def test_names_are_read_as_torch_reads_them(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert visible(names) == [str(each) for each in cuda._parse_visible_devices()]


@pytest.mark.parametrize(
    ("names", "uuids", "expected"),
    [
        ("-1,GPU-1abc", ("GPU-1abc",), None),
        ("2,GPU-1abc", ("GPU-1abc",), "2"),
        ("1,1", (), None),
        ("GPU-1abc,GPU-1abc", ("GPU-1abc", "GPU-1abc"), None),
        ("GPU-1abc, GPU-2abc", ("GPU-1abc",), "1"),
        ("0,1", ("GPU-2abc", "GPU-1abc"), "2"),
    ],
)
def test_a_rank_is_on_what_it_sees(names: str, uuids: tuple[str, ...], expected: str | None) -> None:
    """The SDK repeats what uuids there are among the names; a rank that knows uuids of its own knows better."""
    found = rank_of(gpus(), visible_devices=names, device_uuids=uuids)
    assert (found.gpu if found is not None else None) == expected


@pytest.mark.parametrize(
    ("models", "order", "expected"),
    [
        (("A", "A"), "", "1"),
        (("A", "B"), "", None),
        (("A", "B"), "PCI_BUS_ID", "1"),
        (("A", "B"), "FASTEST_FIRST", None),
    ],
)
def test_an_index_says_nothing_where_cards_differ_and_the_fastest_is_first(
    models: tuple[str, ...], order: str, expected: str | None
) -> None:
    """That is CUDA's own order, which only CUDA knows; NVML counts by address."""
    node = gpus()
    cards = [Sample(INFO_NAMED, 1.0, (str(i), f"GPU-{i}abc", name, "false")) for i, name in enumerate(models)]
    node.observe("gpu", cards, 2.0)
    environment = {"cuda_device_order": order} if order else {}
    found = rank_of(node, visible_devices="1", environment=environment)
    assert (found.gpu if found is not None else None) == expected

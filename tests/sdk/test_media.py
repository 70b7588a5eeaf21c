"""Images, histograms, tables and artifacts: whatever users have at hand becomes what the agent takes."""

from __future__ import annotations

import hashlib
import importlib
import io
import itertools
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rankscope import sdk
from rankscope.sdk import _artifacts, _tables
from rankscope.sdk.testing import Captured, Event, capture


def media(sent: Captured) -> list[Event]:
    sent.read()
    return [event for event in sent.events if event.kind == "media"]


def picture(event: Event) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return what a viewer makes of the PNG that was sent."""
    return np.asarray(Image.open(io.BytesIO(event.data)))


COLOURS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize(
    "value",
    [
        COLOURS,
        COLOURS.transpose(2, 0, 1),
        torch.from_numpy(COLOURS),
        torch.from_numpy(COLOURS).permute(2, 0, 1) / 255.0,
        (torch.from_numpy(COLOURS) / 255.0).requires_grad_(),
        COLOURS.tolist(),
        Image.fromarray(COLOURS),
    ],
    ids=["HWC", "CHW", "tensor", "floats CHW", "needs grad", "list", "PIL"],
)
def test_images_of_every_kind(value: object) -> None:
    with capture() as sent:
        sdk.image("sample", value, step=7)
        (event,) = media(sent)
    assert (event.step, event.fields["metadata"]) == (7, {"height": 4, "width": 5, "channels": 3})
    np.testing.assert_array_equal(picture(event), COLOURS)


def test_grey_images_masks_and_values_out_of_range() -> None:
    with capture() as sent:
        sdk.image("grey", np.array([[0.0, 1.0], [np.nan, 7.0]]))
        sdk.image("mask", np.array([[True, False]]))
        sdk.image("half", torch.ones(1, 2, 2, dtype=torch.bfloat16))
        grey, mask, half = media(sent)
    np.testing.assert_array_equal(picture(grey), [[0, 255], [0, 255]])
    np.testing.assert_array_equal(picture(mask), [[255, 0]])
    np.testing.assert_array_equal(picture(half), [[255, 255], [255, 255]])


def test_figures_are_drawn(require_library: Callable[[str], None]) -> None:
    require_library("matplotlib")
    matplotlib: Any = importlib.import_module("matplotlib.figure")
    figure = matplotlib.Figure((2, 1), dpi=50)
    with capture() as sent:
        sdk.image("figure", figure)
        (event,) = media(sent)
    assert picture(event).shape[:2] == (50, 100)


def test_large_images_are_thinned_out() -> None:
    with capture() as sent:
        sdk.image("wide", np.zeros((10, 5000), np.uint8))
        (event,) = media(sent)
    assert picture(event).shape == (4, 1667)


@pytest.mark.parametrize("value", [None, "text", np.zeros(3), np.zeros((2, 5, 7, 9)), np.zeros((7, 7, 7)), object()])
def test_what_is_no_image_costs_one_warning(value: object) -> None:
    with capture() as sent:
        sdk.image("sample", value)
        assert not media(sent)
    assert sum(sent.warnings.values()) == 1


def test_histograms_count_every_finite_value_and_the_others_apart() -> None:
    values = torch.randn(10_000)
    values[:7] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0, 0, 0, 0])
    with capture() as sent:
        sdk.histogram("weights", values)
        (event,) = media(sent)
    numbers = struct.unpack(f"<{len(event.data) // 8}d", event.data)
    limits, counts = numbers[:64], numbers[64:]
    finite = values[torch.isfinite(values)].double()
    metadata = event.fields["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["nonfinite"] == 3
    assert metadata["sum"] == pytest.approx(float(finite.sum()))
    assert sum(counts) == 9997
    assert limits[-1] == metadata["max"] == float(finite.max())
    below = [int((finite <= limit).sum()) for limit in limits]
    np.testing.assert_allclose(np.cumsum(counts), below, atol=3)


@pytest.mark.parametrize("value", [[5.0, 5.0], [1e308, -1e308], [float("nan")], [], [1.0, 1.0 + 1e-15]])
def test_histograms_of_odd_values(value: list[float]) -> None:
    with capture() as sent:
        sdk.histogram("h", value)
        (event,) = media(sent)
    numbers = struct.unpack(f"<{len(event.data) // 8}d", event.data)
    half = len(numbers) // 2
    assert sum(numbers[half:]) == sum(np.isfinite(value))
    assert sorted(set(numbers[:half])) == list(numbers[:half])
    assert not sent.warnings


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2], "b": ["x", "y,z"]},
        [{"a": 1, "b": "x"}, {"a": 2, "b": "y,z"}],
        [["a", "b"], [1, "x"], [2, "y,z"]],
        [["a", "b"], (np.int64(1), "x"), (torch.tensor(2), "y,z")],
    ],
)
def test_tables_of_every_kind(value: object) -> None:
    with capture() as sent:
        sdk.table("t", value)
        (event,) = media(sent)
    assert event.data == b'a,b\n1,x\n2,"y,z"\n'


def test_a_table_that_never_ends_is_cut_off() -> None:
    with capture() as sent:
        sdk.table("t", ({"a": number} for number in itertools.count()))
        events = media(sent)
    assert b"".join(event.data for event in events).count(b"\n") == 1 + _tables.MAX_ROWS


def test_artifacts_travel_whole_with_their_digest(tmp_path: Path) -> None:
    data = bytes(range(256)) * 3000
    (tmp_path / "model.bin").write_bytes(data)
    with capture() as sent:
        sdk.artifact("model", tmp_path / "model.bin")
        events = media(sent)
    assert b"".join(event.data for event in events) == data
    assert len(events) > 1
    assert [event.fields["last"] for event in events] == [False] * (len(events) - 1) + [True]
    metadata = events[0].fields["metadata"]
    assert isinstance(metadata, dict)
    assert (metadata["name"], metadata["sha256"]) == ("model.bin", hashlib.sha256(data).hexdigest())


def test_large_artifacts_stay_where_they_are(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(_artifacts.COPIED + 1)
    with capture() as sent:
        sdk.artifact("checkpoint", tmp_path / "huge")
        (event,) = media(sent)
    assert (event.fields["kind"], event.data) == ("reference", b"")
    assert json.loads(json.dumps(event.fields["metadata"]))["path"] == str(tmp_path / "huge")


def test_a_missing_artifact_costs_one_warning(tmp_path: Path) -> None:
    with capture() as sent:
        sdk.artifact("model", tmp_path / "absent")
        assert not media(sent)
    assert sum(sent.warnings.values()) == 1


@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, what: str) -> None:
    path = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}[what]
    if what == "pipe":
        os.mkfifo(path)
    with capture() as sent:
        sdk.artifact("odd", path)
    assert sent.events == [event for event in sent.events if event.kind == "goodbye"]
    assert sum(sent.warnings.values()) == 1


def test_nothing_happens_without_a_session() -> None:
    sdk.image("a", COLOURS)
    sdk.histogram("b", [1.0])
    sdk.table("c", {})
    sdk.artifact("d", "/nowhere")

"""Images, histograms, tables, graphs and artifacts: whole from their pieces, as TensorBoard reads them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from rankscope.agent.exporters import _media
from rankscope.agent.exporters.tensorboard import Tensorboard
from rankscope.agent.model import Batch, Media

from .record import losses, rank, read, scalars


def folder(root: Path) -> Path:
    return root / "project" / "run-1" / "rank_0000"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\x00\x80"))
    + chunk(b"IEND", b"")
)


def pieces(
    kind: str, tag: str, data: bytes, metadata: Mapping[str, object], *, number: int = 1, size: int = 0
) -> list[Media]:
    parts = [data[i : i + size] for i in range(0, len(data), size)] if size else [data]
    last = len(parts) - 1
    return [
        Media(5, 9.0, kind, tag, number, i, i == last, part, metadata if i == 0 else {}) for i, part in enumerate(parts)
    ]


def written(root: Path, *media: Media, commits: bool = False) -> Path:
    record = Tensorboard(dir=str(root))
    record.begin(rank())
    for sequence, piece in enumerate(media, 1):
        record.write(rank(), Batch(sequence, sequence, (), (piece,)))
        if commits:
            record.commit()
    record.close()
    return folder(root)


SIZE = {"height": 1, "width": 1, "channels": 1}


@pytest.mark.parametrize("size", [0, 7])
@pytest.mark.parametrize("commits", [False, True])
def test_an_image(tmp_path: Path, size: int, commits: bool) -> None:
    path = written(tmp_path, *pieces("image", "sample", PNG, SIZE, size=size), commits=commits)
    (image,) = read(path).Images("sample")
    assert (image.step, image.width, image.height, image.encoded_image_string) == (5, 1, 1, PNG)
    assert not list(path.glob("pieces/*"))


def test_a_histogram_and_its_values_that_are_not_finite(tmp_path: Path) -> None:
    data = struct.pack("<4d", 1.0, 2.0, 3.0, 4.0)
    metadata = {"min": 0.0, "max": 2.0, "sum": 9.0, "sum_squares": 20.0, "nonfinite": 3}
    path = written(tmp_path, *pieces("histogram", "weights", data, metadata))
    (event,) = read(path).Histograms("weights")
    value = event.histogram_value
    assert (list(value.bucket_limit), list(value.bucket), value.num) == ([1.0, 2.0], [3.0, 4.0], 7.0)
    assert scalars(path, "weights/nonfinite") == [(5, 3.0)]


def test_a_table_is_markdown_and_csv(tmp_path: Path) -> None:
    rows = "".join(f"{i},x|y\n" for i in range(150))
    path = written(tmp_path, *pieces("table", "predictions/all", f"id,text\n{rows}".encode(), {}))
    text = read(path).Tensors("predictions/all")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("| id | text |\n| --- | --- |\n| 0 | x\\|y |")
    assert "50 more rows, all in `tables/predictions-all-5.csv`" in text
    assert (path / "tables" / "predictions-all-5.csv").read_text().count("\n") == 151


def test_a_graph(tmp_path: Path) -> None:
    nodes = [["x", "placeholder", [], [2, 4]], ["layer/mm", "mm.default", ["x"], None]]
    path = written(tmp_path, *pieces("graph", "model", json.dumps(nodes).encode(), {}))
    found = read(path).Graph()
    assert [(node.name, node.op, list(node.input)) for node in found.node] == [
        ("x", "placeholder", []),
        ("layer/mm", "mm.default", ["x"]),
    ]
    assert [dim.size for dim in found.node[0].attr["_output_shapes"].list.shape[0].dim] == [2, 4]


def test_an_artifact_lies_in_the_run_folder_and_nowhere_else(tmp_path: Path) -> None:
    metadata = {"name": "../../../etc/passwd", "bytes": 300, "sha256": "ab" * 32}
    data = bytes(range(250)) + b"x" * 50
    path = written(tmp_path / "runs", *pieces("artifact", "model", data, metadata, size=100), commits=True)
    (file,) = (path / "artifacts").iterdir()
    assert (file.name, file.read_bytes()) == ("abababababab-etc-passwd", data)
    assert "sha256 `abab" in read(path).Tensors("model")[0].tensor_proto.string_val[0].decode()
    assert [found.name for found in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("kill_after", range(1, 7))
def test_pieces_survive_an_agent_that_is_killed_between_them(tmp_path: Path, kill_after: int) -> None:
    parts = pieces("image", "sample", PNG, SIZE, size=12)
    assert len(parts) >= 6
    record = Tensorboard(dir=str(tmp_path))
    for sequence, piece in enumerate(parts, 1):
        if sequence == kill_after:  # what was not committed is gone with the process
            record = Tensorboard(dir=str(tmp_path))
        for again, resent in enumerate(parts[record.begin(rank()) : sequence - 1], record.begin(rank()) + 1):
            record.write(rank(), Batch(again, again, (), (resent,)))
        record.write(rank(), Batch(sequence, sequence, (), (piece,)))
        if sequence % 2:
            record.commit()
    record.close()
    (image,) = read(folder(tmp_path)).Images("sample")
    assert image.encoded_image_string == PNG


@pytest.mark.parametrize(
    ("kind", "data", "metadata"),
    [
        ("image", b"<script>", SIZE),
        ("image", PNG, {}),
        ("image", PNG, {"height": "x", "width": 1, "channels": 1}),
        ("histogram", b"12345678", {"min": 0, "max": 0, "sum": 0, "sum_squares": 0}),
        ("histogram", b"123", {}),
        ("table", b"", {}),
        ("graph", b"{", {}),
        ("graph", b"[[1]]", {}),
        ("hologram", b"", {}),
    ],
)
def test_what_is_malformed_is_left_out_and_the_rest_goes_on(
    tmp_path: Path, kind: str, data: bytes, metadata: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    record = Tensorboard(dir=str(tmp_path))
    record.begin(rank())
    record.write(rank(), Batch(1, 1, (), tuple(pieces(kind, "thing", data, metadata))))
    record.write(rank(), losses(2, 3))
    record.close()
    assert f"{kind} 'thing' is left out" in caplog.text
    assert [step for step, _ in scalars(folder(tmp_path), "loss")] == [2, 3, 4]


def test_a_missing_piece_leaves_the_whole_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = pieces("image", "sample", PNG, SIZE, size=20)
    path = written(tmp_path, parts[0], *parts[2:])
    assert "piece 1 is missing" in caplog.text
    assert not list(path.glob("pieces/*"))


def test_what_is_too_large_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_media, "LARGEST", 30)
    path = written(tmp_path, *pieces("image", "sample", PNG, SIZE, size=20), commits=True)
    assert "too large" in caplog.text
    assert not list(path.glob("pieces/*"))


def test_things_that_never_become_complete_are_forgotten(tmp_path: Path) -> None:
    begun = [Media(5, 9.0, "image", "sample", number, 0, False, b"x", SIZE) for number in range(200)]
    path = written(tmp_path, *begun, commits=True)
    assert len(list(path.glob("pieces/*"))) == _media.INCOMPLETE


def test_a_table_whose_cell_is_a_whole_document(tmp_path: Path) -> None:
    text = "x" * 200_000
    path = written(tmp_path, *pieces("table", "samples", f"prompt\n{text}\n".encode(), {}))
    (event,) = read(path).Tensors("samples")
    assert text.encode() in event.tensor_proto.string_val[0]


@pytest.mark.parametrize(
    ("kind", "data", "metadata"),
    [
        ("image", PNG, {**SIZE, "height": float("inf")}),
        ("histogram", struct.pack("<2d", 1.0, 2.0), {"min": 1, "max": 1, "sum": 10**400, "sum_squares": 1}),
        ("graph", b"[" * 100_000, {}),
    ],
)
def test_what_cannot_be_shown_is_left_out_and_the_rest_goes_on(
    tmp_path: Path, kind: str, data: bytes, metadata: Mapping[str, object]
) -> None:
    record = Tensorboard(dir=str(tmp_path))
    record.begin(rank())
    record.write(rank(), Batch(1, 1, (), (*pieces(kind, "odd", data, metadata),)))
    record.write(rank(), losses(2, 3))
    record.close()
    assert len(scalars(folder(tmp_path), "loss")) == 3

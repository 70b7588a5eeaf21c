"""The protocol lets old SDKs and new agents work together, and its committed code is what its source says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

from rankscope.v1 import ingest_pb2

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = "protocol.txt"


def fields() -> str:
    """Return every message, field, number and type of the protocol, one a line."""
    file = descriptor_pb2.FileDescriptorProto()
    ingest_pb2.DESCRIPTOR.CopyToProto(file)
    lines: list[str] = []

    def walk(message: descriptor_pb2.DescriptorProto, prefix: str) -> None:
        name = f"{prefix}{message.name}"
        for field in message.field:
            label = "repeated " if field.label == field.LABEL_REPEATED else ""
            kind = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
            lines.append(
                f"{name}.{field.name} = {field.number} {label}{kind}{field.type_name and ' ' + field.type_name}"
            )
        for enum in message.enum_type:
            lines.extend(f"{name}.{enum.name}.{value.name} = {value.number}" for value in enum.value)
        for nested in message.nested_type:
            walk(nested, f"{name}.")

    for message in file.message_type:
        walk(message, "")
    return "\n".join(lines) + "\n"


def test_fields_and_numbers_are_frozen() -> None:
    """A line may be added; one that changes or goes breaks whoever speaks the older protocol."""
    frozen = (ROOT / "tests" / "golden" / GOLDEN).read_text().splitlines()
    assert [line for line in frozen if line not in fields().splitlines()] == []


def test_every_field_of_the_protocol_is_frozen(request: pytest.FixtureRequest) -> None:
    path = ROOT / "tests" / "golden" / GOLDEN
    if request.config.getoption("--update"):
        path.write_text(fields())
    assert path.read_text() == fields()


@pytest.mark.parametrize(
    "message",
    [
        ingest_pb2.Hello(run_id="x", session=3, rank=1),
        ingest_pb2.Batch(first_sequence=1, records=1),
        ingest_pb2.Welcome(safe_sequence=7),
    ],
)
def test_what_a_newer_peer_adds_is_ignored(message: Message) -> None:
    unknown = bytes([0xFA, 0x7F, 3]) + b"new"  # field 2047, length-delimited
    assert type(message).FromString(message.SerializeToString() + unknown).ListFields() == message.ListFields()


def test_every_field_is_explained() -> None:
    text = (ROOT / "proto" / "rankscope" / "v1" / "ingest.proto").read_text()
    field = re.compile(r"^\s+[\w.<>, ]+ \w+ = \d+;")
    assert [line for line in text.splitlines() if field.match(line) and "//" not in line] == []


def test_the_committed_code_is_up_to_date() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / "proto" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    if check.returncode == 3:
        pytest.skip(check.stderr.strip())
    assert check.returncode == 0, check.stderr

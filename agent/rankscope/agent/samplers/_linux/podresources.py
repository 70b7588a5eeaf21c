"""The kubelet's list of which container was given which devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_METHOD = "/v1.PodResourcesLister/List"
_TIMEOUT = 2.0  # seconds
_MOST = 16 << 20  # bytes, as the kubelet's own clients allow
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Given(NamedTuple):
    """A device of a container."""

    pod: str
    namespace: str
    container: str
    resource: str  # nvidia.com/gpu, nvidia.com/mig-1g.10gb, …
    device: str  # as the device plugin names it: a uuid, for shared GPUs with `::` and a number behind it


def ask(socket: str) -> list[Given]:
    """Return what the kubelet gave. Raises OSError where it does not answer."""
    import grpc  # only nodes of a cluster need it

    with grpc.insecure_channel(f"unix:{socket}", [("grpc.max_receive_message_length", _MOST)]) as channel:
        call = channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer: bytes = call(b"", timeout=_TIMEOUT)
        except grpc.RpcError as error:
            raise OSError(f"the kubelet does not tell which pod has which GPU: {error.code().name}") from None
    return list(parse(answer))


def parse(answer: bytes) -> Iterator[Given]:
    """Yield the devices of a ListPodResourcesResponse. Raises ValueError when it is none.

    Read by hand, as it is five strings of a message that will not change (k8s.io/kubelet/pkg/apis/podresources/v1):
    pod_resources = 1 {name = 1, namespace = 2, containers = 3 {name = 1, devices = 2 {resource_name = 1,
    device_ids = 2}}}.
    """
    for pod in _messages(answer, 1):
        name, namespace = _text(pod, 1), _text(pod, 2)
        for container in _messages(pod, 3):
            for devices in _messages(container, 2):
                for device in _messages(devices, 2):
                    yield Given(
                        name, namespace, _text(container, 1), _text(devices, 1), device.decode(errors="replace")
                    )


def _messages(data: bytes, wanted: int) -> Iterator[bytes]:
    """Yield the values of a length-delimited field."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a message that ends too soon")
            if key >> 3 == wanted:
                yield data[at : at + length]
            at += length
        else:
            raise ValueError(f"a field of kind {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
    raise ValueError("a number that does not end")


def _text(data: bytes, wanted: int) -> str:
    return next((value.decode(errors="replace") for value in _messages(data, wanted)), "")

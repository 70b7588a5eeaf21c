"""The process that holds NVML: it may hang or die with a card, and the agent goes on.

It reads one JSON question a line (`{"slow": true, "skip": [3], "last": [1]}`: indices of cards to leave out, and of
those to look at last) and answers with lines: `order` of the cards, `at` before it touches one, so that a hang has a
name, `card` after (with the `at` of the next one), and `end`. Lines `xids` come at any time, even while a card hangs.
It ends when nobody asks any more.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rankscope.agent.samplers._nvml.api import ODD, nvml
from rankscope.agent.samplers._nvml.card import DriverError, LostError, Profile, check
from rankscope.agent.samplers._nvml.device import Device
from rankscope.agent.samplers._nvml.profile import GpmProfile
from rankscope.agent.samplers._nvml.reading import Reading

_MOST_CARDS = 1024  # more are none


class Answers:
    """Lines to whoever asked, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # what a library prints must not come between

    def say(self, **tree: Any) -> None:
        line = json.dumps(tree, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._out.write(line)
            self._out.flush()


class Questions:
    """Lines from whoever asks; at their end the process ends, even while NVML hangs in another thread."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            self._lines.put(line)
        os._exit(0)

    def next(self) -> dict[str, Any]:
        tree: dict[str, Any] = json.loads(self._lines.get())
        return tree


class Xids:
    """XID errors as NVML tells them, waited for in a thread of its own and told at once.

    They come when a card dies: the thread that reads it may hang then, and NVML no longer tells the card's uuid.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._uuids: dict[int, str] = {}  # by the address that a handle is
        self._set: object | None = None

    def watch(self, handle: Any, uuid: str) -> bool:
        """Listen for errors of a device; False where it tells none."""
        try:
            if self._set is None:
                self._set = nvml.nvmlEventSetCreate()
                threading.Thread(target=self._wait, daemon=True).start()
            self._uuids[_address(handle)] = uuid
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._set)
        except nvml.NVMLError as error:
            check(error)
            return False
        return True

    def _wait(self) -> None:
        while True:
            try:
                event = nvml.nvmlEventSetWait_v2(self._set, 1000)
            except nvml.NVMLError as error:
                if error.value != nvml.NVML_ERROR_TIMEOUT:
                    time.sleep(1.0)  # a lost device fails at once, each time
                continue
            uuid = self._uuids.get(_address(event.device))
            if uuid is not None:
                self._answers.say(xids=[(uuid, int(event.eventData), time.time())])


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def profile_of(handle: object, instance: int | None) -> Profile:
    return GpmProfile(nvml, handle, instance)


class Cards:
    """The devices by index, each opened when it is first looked at."""

    def __init__(self, answers: Answers, driver: str) -> None:
        self._answers = answers
        self._driver = driver
        self._devices: dict[int, Device | None] = {}
        self._xids = Xids(answers)

    def look(self, slow: bool, skip: set[int], last: set[int]) -> None:
        """Answer with every card. Raises DriverError and NVMLError when there is no use in going on."""
        count = int(nvml.nvmlDeviceGetCount())
        if count > _MOST_CARDS:
            raise DriverError(f"NVML counts {count} GPUs")
        indices = [index for index in range(count) if index not in skip]
        indices.sort(key=lambda index: (index in last, index))
        if indices:
            self._answers.say(order=indices, at=indices[0])
        for i, index in enumerate(indices):
            following = {"at": indices[i + 1]} if i + 1 < len(indices) else {}
            self._answers.say(card=self._read(index, slow).to_json(), **following)
        self._answers.say(end=True)

    def _read(self, index: int, slow: bool) -> Reading:
        device = self._devices.get(index)
        try:
            if index not in self._devices:
                device = self._devices[index] = self._open(index)
            return device.read(slow) if device is not None else Reading(index, "")
        except LostError as error:
            return Reading(index, device.uuid if device else "", lost=str(error))

    def _open(self, index: int) -> Device | None:
        """Return a device, None where this user has none: NVML counts those of other containers, too."""
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
        except (nvml.NVMLError_NoPermission, nvml.NVMLError_InvalidArgument):
            return None
        except nvml.NVMLError as error:
            check(error)
            raise LostError(str(error)) from None
        try:
            device = Device(nvml, index, handle, profile_of, self._driver)
        except nvml.NVMLError as error:
            check(error)
            raise LostError(str(error)) from None
        self._xids.watch(handle, device.uuid)
        return device


def versions() -> dict[str, str]:
    cuda = _version(nvml.nvmlSystemGetCudaDriverVersion_v2)
    return {
        "driver_version": str(_version(nvml.nvmlSystemGetDriverVersion)),
        "nvml_version": str(_version(nvml.nvmlSystemGetNVMLVersion)),
        "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}" if isinstance(cuda, int) else "",
    }


def _version(function: Callable[[], object]) -> object:
    try:
        return function()
    except (nvml.NVMLError, *ODD):
        return ""


def main() -> int:
    answers, questions = Answers(), Questions()
    try:
        nvml.nvmlInit()
        found = versions()
        answers.say(versions=found)
        cards = Cards(answers, found["driver_version"])
        while True:
            question = questions.next()
            cards.look(bool(question.get("slow")), set(question.get("skip", ())), set(question.get("last", ())))
    except (DriverError, LostError, nvml.NVMLError) as error:
        answers.say(error=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())

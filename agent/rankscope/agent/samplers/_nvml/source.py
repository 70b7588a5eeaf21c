"""GPUs through NVML in a child process that is replaced when it hangs; one bad card costs that card only."""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass, field

from rankscope.agent.samplers._nvml.link import GoneError, HungError, Link, LinkError
from rankscope.agent.samplers._nvml.reading import Look, Reading, Xid

OPENING = 60.0  # seconds: without the persistence daemon NVML wakes every card first
SLOW = 10  # collections from one reading of slow rows to the next
MAX_STUCK = 3  # processes that hang in the kernel; no more are started until one of them dies


class BlindError(Exception):
    """No GPU can be read now; the text says why."""


@dataclass(slots=True)
class _Backoff:
    """When to try again after something failed: `first` seconds later, then twice as long, up to `longest`."""

    first: float
    longest: float
    until: float = 0.0
    delay: float = 0.0

    def fail(self, now: float) -> None:
        self.delay = min(self.longest, self.delay * 2 or self.first)
        self.until = now + self.delay

    def reset(self) -> None:
        self.until = self.delay = 0.0


def installed(library: str = "") -> bool:
    """Say whether there is an NVML to load, without loading it into this process where the folder is known."""
    if library:
        return os.path.exists(os.path.join(library, "libnvidia-ml.so.1"))
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


@dataclass
class NvmlSource:
    """Looks at all GPUs; a card that hangs is left out, and tried again after 10 s, 20 s … 2 min.

    It is tried after all others, so that it holds up none of them, and not before the process that hung at it is gone.
    """

    library: str = ""
    deadline: float = 3.0  # seconds for one look
    first_deadline: float = 20.0  # for the first one: without the persistence daemon each card is woken for it
    root: str = "/"
    _link: Link | None = field(default=None, init=False)
    _stuck: list[Link] = field(default_factory=list[Link], init=False)
    _starts: _Backoff = field(default_factory=lambda: _Backoff(2.0, 60.0), init=False)
    _hung: dict[int, _Backoff] = field(default_factory=dict[int, _Backoff], init=False)  # by index
    _fell: int | None = field(default=None, init=False)  # index of the card at which the process ended
    _lost: _Backoff = field(default_factory=lambda: _Backoff(10.0, 120.0), init=False)
    _known: dict[str, Reading] = field(default_factory=dict[str, Reading], init=False)  # by uuid, when last read
    _xids: list[Xid] = field(default_factory=list[Xid], init=False)  # not yet given
    _looks: int = field(default=0, init=False)
    _bus: tuple[str, ...] | None = field(default=None, init=False)
    _why: str = field(default="", init=False)

    def look(self) -> Look:
        """Return what can be read. Raises BlindError when that is nothing."""
        now = time.monotonic()
        link = self._open(now)
        stuck = {each.hung for each in self._stuck}
        skip = [index for index, backoff in self._hung.items() if now < backoff.until or index in stuck]
        tried = [index for index in self._hung if index not in skip]
        order: list[int] = []
        readings: list[Reading] = []
        question = {"slow": self._looks % SLOW == 0, "skip": skip, "last": tried}
        self._looks += 1
        try:
            for line in link.ask(question, now + (self.deadline if link.looked else self.first_deadline)):
                order = line.get("order", order)
                if "card" in line:
                    readings.append(Reading.from_json(line["card"]))
                self._xids.extend(Xid(*each) for each in line.get("xids", ()))
        except LinkError as error:
            self._leave_out(error, now)
            unread = set(order) - {reading.index for reading in readings} - self._hung.keys()
            if unread:
                raise BlindError(str(error)) from None  # of those nothing is known: the next look reads them
        else:
            link.looked = True
            self._fell = None
            self._starts.reset()
        for index in tried:
            if any(reading.index == index for reading in readings) or (order and index not in order):
                del self._hung[index]
        return self._assemble(link, readings, now)

    def _leave_out(self, error: LinkError, now: float) -> None:
        """Give a process up, and the card at which it hangs or ended twice. Raises BlindError where it is none."""
        if isinstance(error, HungError) and self._link is not None:
            self._link.hung = error.at
        self._replace(now, str(error))
        again = error.at == self._fell or error.at in self._hung
        self._fell = error.at if isinstance(error, GoneError) else None
        if error.at is None or (isinstance(error, GoneError) and not again):
            raise BlindError(str(error)) from None
        self._hung.setdefault(error.at, _Backoff(10.0, 120.0)).fail(now)
        self._starts.reset()  # the others are to be read at once

    def _open(self, now: float) -> Link:
        self._stuck = [link for link in self._stuck if not link.dead()]
        bus = self._devices_on_bus()
        if self._link is not None and bus != self._bus:
            self._replace(now, "GPUs came or went")
            self._starts.reset()
            self._hung.clear()  # an index may be another card now
        self._bus = bus
        if self._link is None:
            if now < self._starts.until:
                raise BlindError(self._why)
            stuck = sum(link.hung is None or link.hung not in self._hung for link in self._stuck)
            if stuck >= MAX_STUCK:  # those that hang at a card are one a card
                raise BlindError(f"{self._why}; {stuck} processes hang in the driver and cannot be ended")
            self._link = Link(self.library)
            self._looks = 0
        try:
            if not self._link.wait_open(now + self.deadline / 2):
                if now - self._link.started > OPENING:
                    self._replace(now, f"NVML did not open within {OPENING:g} s")
                    raise BlindError(self._why)
                raise BlindError("NVML is opening")
        except GoneError as error:
            self._replace(now, str(error))
            raise BlindError(str(error)) from None
        return self._link

    def _replace(self, now: float, why: str) -> None:
        if self._link is not None:
            self._link.kill()
            self._stuck.append(self._link)
        self._link = None
        self._why = why
        self._starts.fail(now)

    def _devices_on_bus(self) -> tuple[str, ...] | None:
        """Return the driver's devices, None where it lists none. After a change NVML must be opened anew."""
        try:
            return tuple(sorted(os.listdir(f"{self.root.rstrip('/')}/proc/driver/nvidia/gpus")))
        except OSError:
            return None

    def _assemble(self, link: Link, readings: list[Reading], now: float) -> Look:
        """Add the cards that are there and do not answer, and those that were there once, as lost."""
        found = [reading for reading in readings if reading.uuid and not reading.lost]
        for reading in found:
            self._known[reading.uuid] = reading
        there = {reading.uuid for reading in found}
        silent = {reading.index: reading.lost for reading in readings if reading.lost}
        silent.update(dict.fromkeys(self._hung, "does not answer"))
        for uuid, old in self._known.items():
            if uuid not in there:
                found.append(Reading(old.index, uuid, old.info, lost=silent.pop(old.index, "fell off the bus")))
        found.extend(Reading(index, "", lost=why) for index, why in silent.items())  # never read yet
        if any(reading.lost and reading.index not in self._hung for reading in found):
            if now >= self._lost.until:  # only NVML opened anew finds a card that came back
                if self._lost.delay and self._link is not None:
                    self._replace(now, "a GPU was lost")
                    self._starts.reset()
                self._lost.fail(now)
        else:
            self._lost.reset()
        xids, self._xids = self._xids, []
        return Look(dict(link.versions or {}), sorted(found, key=lambda each: each.index), xids)

    def close(self) -> None:
        for link in (self._link, *self._stuck):
            if link is not None:
                link.kill()
                link.dead()
        self._link = None

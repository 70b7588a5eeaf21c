"""The record of a run: every point at full resolution, in TensorBoard's own format."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rankscope.agent.component import Unsafe
from rankscope.agent.exporters import _hparams as hparams
from rankscope.agent.exporters._event_file import EventFile
from rankscope.agent.exporters._media import take
from rankscope.agent.exporters._records import Rows, event
from rankscope.agent.exporters._summaries import scalar, text
from rankscope.agent.model import Batch, Column, End, Event, Goodbye, Media, RankInfo, RankKey, Text, UserAlert
from rankscope.agent.runs.folder import rank_folder, run_folder
from rankscope.agent.runs.naming import safe_name
from rankscope.agent.runs.summary import Summary

log = logging.getLogger("rankscope.tensorboard")

SHAPES = 4096  # kinds of rows for which the layout is kept
DESCRIPTORS = 128  # event files that stay open between commits


@dataclass
class Tensorboard:
    """Keeps every point of every rank as TensorBoard event files, one folder a rank: the record of a run.

    What it has acknowledged is on disk, once, whatever was killed meanwhile. `tensorboard --logdir` on the runs
    folder shows scalars, text, images, histograms, graphs and HPARAMS.
    """

    dir: str = ""  # empty: the agent's runs folder
    ranks: Literal["all"] | list[int] = "all"  # whose points are kept
    _host: str = field(init=False, repr=False, default_factory=lambda: safe_name(os.uname().nodename, "node"))
    _files: dict[RankKey, EventFile] = field(init=False, repr=False, default_factory=dict[RankKey, EventFile])
    _summaries: dict[tuple[str, str], Summary] = field(
        init=False, repr=False, default_factory=dict[tuple[str, str], Summary]
    )
    _unsummed: set[tuple[str, str]] = field(init=False, repr=False, default_factory=set[tuple[str, str]])
    _open: dict[RankKey, set[int]] = field(init=False, repr=False, default_factory=dict[RankKey, set[int]])
    _passed: dict[tuple[RankKey, int], int] = field(
        init=False, repr=False, default_factory=dict[tuple[RankKey, int], int]
    )
    _shapes: dict[tuple[Column, ...], Rows] = field(
        init=False, repr=False, default_factory=dict[tuple[Column, ...], Rows]
    )

    def begin(self, rank: RankInfo) -> int:
        """Return the last safe sequence number of a session (0: none). Raises OSError."""
        if not self._kept(rank):
            return self._passed.get((rank.key, rank.session), 0)
        try:
            if (pending := self._files.get(rank.key)) is not None:
                self._save(rank.key, pending)  # what is pending of this session counts before it is asked for
            if not self.dir:
                raise OSError("the record has no folder: set runs.dir")
            file = self._file(rank)
        except OSError as error:
            raise _clear(error) from error
        return file.safe.get(_name(rank), 0)

    def _file(self, rank: RankInfo) -> EventFile:
        """Return the file of a rank, opened for this session. Raises OSError."""
        file = self._files.get(rank.key)
        if file is not None and rank.session in self._open[rank.key]:
            return file
        if file is None:
            file = EventFile(rank_folder(Path(self.dir), rank.key), self._host, _name(rank))
        run = (rank.key.project, rank.key.run)
        if run not in self._summaries:
            self._summaries[run] = Summary(run_folder(Path(self.dir), *run), self._host)
        self._summaries[run].begin(rank)
        self._files[rank.key] = file
        self._open.setdefault(rank.key, set()).add(rank.session)
        if _name(rank) not in file.progress.sessions:
            self._inherit(file, rank)
            self._introduce(file, rank, _name(rank))
        return file

    def _inherit(self, file: EventFile, rank: RankInfo) -> None:
        """Go on after what another file has of a session that is new to this one. Raises OSError.

        So it comes when the agent goes by another host name by now, and a later attempt of the rank came first.
        """
        name = _name(rank)
        other = EventFile(rank_folder(Path(self.dir), rank.key), self._host, name)
        if name in other.safe and other.progress.host != file.progress.host:
            other.save()  # cuts off what does not count: it comes again
            other.close()
            file.progress.sessions[name] = file.safe[name] = other.safe[name]

    def _introduce(self, file: EventFile, rank: RankInfo, session: str) -> None:
        """Write what a new session brings: the configuration where it is new, and that the run goes on."""
        progress = file.progress
        digest = hashlib.sha256(json.dumps(rank.config, sort_keys=True, default=str).encode()).hexdigest()[:16]
        if not progress.config:
            file.append(hparams.start_record(rank))
        if digest != progress.config and (rank.config or progress.config):
            file.append(hparams.config_record(rank))
        progress.config = digest
        progress.sessions.setdefault(session, 0)
        age = (rank.attempt, rank.started)
        if age >= progress.newest[:2]:
            progress.newest = (*age, session)
            if progress.ending >= 0:
                file.patch(progress.ending, hparams.end_record(hparams.RUNNING, 0.0))
        file.touch()

    def write(self, rank: RankInfo, batch: Batch) -> None:
        """Take a batch into memory; it counts from the next commit on. Raises ValueError where it overlaps.

        A batch of which something cannot be taken is not taken at all: it may come again, in smaller parts.
        """
        if not self._kept(rank):
            self._passed[rank.key, rank.session] = batch.last
            return
        file = self._file(rank)
        session = _name(rank)
        taken = file.progress.sessions.get(session, 0)
        if batch.last <= taken:
            return
        if batch.first <= taken:
            raise ValueError(f"records {batch.first} to {batch.last} overlap with {taken}, the last one written")
        back = file.mark()
        try:
            for block in batch.blocks:
                if len(block.step) and block.columns:
                    file.append(self._rows(block.columns).encode(block))
            self._summaries[rank.key.project, rank.key.run].update(rank, batch)
            for item in batch.events:
                self._event(file, rank, session, item)
        except BaseException:
            back()
            raise
        sessions = file.progress.sessions
        sessions.pop(session, None)  # to the end: those that say nothing any more are forgotten first
        sessions[session] = batch.last
        file.touch()

    def _rows(self, columns: tuple[Column, ...]) -> Rows:
        rows = self._shapes.get(columns)
        if rows is None:
            if len(self._shapes) >= SHAPES:
                self._shapes.clear()
            rows = self._shapes[columns] = Rows(columns)
        return rows

    def _event(self, file: EventFile, rank: RankInfo, session: str, item: Event) -> None:
        if isinstance(item, Text):
            file.append(event(item.step, item.time, text(item.tag, item.value)))
        elif isinstance(item, UserAlert):
            title = f"**{item.severity}: {item.title}**\n\n{item.text}"
            file.append(event(item.step, item.time, text("alerts", title)))
        elif isinstance(item, Media):
            take(file, session, item)
        elif isinstance(item, Goodbye):
            self._goodbye(file, rank, session, item)

    def _goodbye(self, file: EventFile, rank: RankInfo, session: str, goodbye: Goodbye) -> None:
        well = goodbye.end is End.FINISHED and goodbye.exit_code == 0
        if not well:
            file.append(event(goodbye.step, goodbye.time, text("end", _how(goodbye))))
        self._open.get(rank.key, set()).discard(rank.session)
        best = self._summaries[rank.key.project, rank.key.run].best(rank.key.rank)
        if best:  # HPARAMS shows the last value of a scalar: this makes a column of the best
            values = [scalar(f"best/{name}", value) for name, value in best.items()]
            file.append(event(goodbye.step, goodbye.time, *values))
        progress = file.progress
        if progress.newest[2] != session:
            return  # a later attempt is on its way: this is not how the run ended
        record = hparams.end_record(hparams.SUCCESS if well else hparams.FAILURE, goodbye.time)
        if progress.ending >= 0:
            file.patch(progress.ending, record)
        else:
            progress.ending = file.end
            file.append(record)

    def commit(self) -> None:
        """Make all that was written so far safe. Raises Unsafe, one line: what is not safe is kept, and tried again."""
        failed: dict[RankKey, OSError] = {}
        for key, file in list(self._files.items()):
            try:
                self._save(key, file)
            except OSError as error:
                failed[key] = error
                continue
            if not self._open.get(key):
                file.close()
                del self._files[key]
                self._open.pop(key, None)
            elif len(self._files) > DESCRIPTORS:
                file.close()
        for run, summary in list(self._summaries.items()):
            try:
                summary.save()
            except (OSError, ValueError, TypeError, RecursionError) as error:  # the record itself is safe
                if run not in self._unsummed:
                    log.warning(
                        "cannot write the summary of %s/%s: %s", *run, getattr(error, "strerror", None) or error
                    )
                self._unsummed.add(run)
            if not any(key[:2] == run for key in self._files):
                del self._summaries[run]
                self._unsummed.discard(run)
        if failed:
            first = next(iter(failed.values()))
            raise Unsafe(str(_clear(first)), frozenset(failed)) from first

    def _save(self, key: RankKey, file: EventFile) -> None:
        if file.changed:
            rank_folder(Path(self.dir), key)  # a link may have come since
            file.save()

    def close(self) -> None:
        """Make what is pending safe and close all files. Raises OSError."""
        try:
            self.commit()
        finally:
            for file in self._files.values():
                file.close()
            for summary in self._summaries.values():
                summary.save(force=True)

    def _kept(self, rank: RankInfo) -> bool:
        return self.ranks == "all" or rank.key.rank in self.ranks


def _name(rank: RankInfo) -> str:
    """Return a session's name, as the progress file has it."""
    return f"{rank.session:016x}"


def _how(goodbye: Goodbye) -> str:
    """Return how a session ended, as Markdown."""
    what = {
        End.SIGNAL: f"ended by signal {goodbye.signal}",
        End.VANISHED: "vanished without a word: killed, or crashed outside Python",
        End.EXCEPTION: f"ended by an uncaught exception: `{goodbye.exception}`",
    }.get(goodbye.end, f"{goodbye.end.value} with exit code {goodbye.exit_code}")
    if goodbye.memory:
        what += "".join(f"\n- {name}: {value:,.0f} bytes" for name, value in goodbye.memory.items())
    return f"{what}\n\n```\n{goodbye.traceback.strip()}\n```" if goodbye.traceback else what


def _clear(error: OSError) -> OSError:
    """Return the error as one line without its number in brackets."""
    if not error.strerror:
        return error
    clear = OSError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    clear.errno = error.errno
    return clear

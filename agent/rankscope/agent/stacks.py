"""Where the ranks of a run are: asks them, and keeps what they answer with the run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from rankscope.agent.model import RankKey, Stacks
from rankscope.agent.runs.folder import rank_folder, replace_file
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

log = logging.getLogger("rankscope.stacks")

EVERY = 1.0  # seconds
PATIENCE = 6.0  # seconds for an answer; the rank has 3 of them
KEPT = 20  # captures a rank


@dataclass(frozen=True)
class Whereabouts:
    """What one rank answered."""

    rank: Rank
    stacks: Stacks
    file: Path | None = None

    def as_json(self) -> dict[str, object]:
        heartbeat = self.rank.heartbeat
        return {
            "rank": self.rank.info.key.rank,
            "step": self.rank.step,
            "phase": heartbeat.phase if heartbeat is not None else "",
            "text": self.stacks.text,
            "refused": self.stacks.refused,
            "file": str(self.file) if self.file is not None else None,
        }


@dataclass
class Searching:
    """Asks ranks where they are, because somebody wants to know, or because their run stands still."""

    node: Node
    runs_dir: Path
    ask: Callable[[RankKey, float], Awaitable[Stacks]]
    stalled: Callable[[], Collection[str]]  # the runs that stand still, by name
    _known: set[str] = field(default_factory=set[str])

    async def where(self, run: Run, ranks: Collection[int] = ()) -> list[Whereabouts]:
        """Ask these ranks of a run (all of them where none is named), all at once."""
        asked = [rank for number, rank in sorted(run.ranks.items()) if not ranks or number in ranks]
        found = await asyncio.gather(*(self.ask(rank.info.key, PATIENCE) for rank in asked))
        at = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        return [
            Whereabouts(rank, stacks, await asyncio.to_thread(self._keep, rank.info.key, at, stacks))
            for rank, stacks in zip(asked, found, strict=True)
        ]

    async def run(self) -> None:
        """Ask once when a run begins to stand still: when somebody looks, the launcher may have killed it."""
        while True:
            stalled = set(self.stalled())
            for run in [run for run in self.node.runs.values() if run.name in stalled - self._known]:
                found = await self.where(run)
                if files := [one.file for one in found if one.file is not None]:
                    log.warning("%s stands still: the stacks of %d ranks are kept: %s", run.name, len(files), files[0])
            self._known = stalled
            await asyncio.sleep(EVERY)

    def _keep(self, key: RankKey, at: str, stacks: Stacks) -> Path | None:
        if not stacks.text:
            return None
        try:
            folder = rank_folder(self.runs_dir, key) / "stacks"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{at}.txt"
            replace_file(path, stacks.text)
            for old in sorted(folder.glob("*.txt"))[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot keep the stacks of rank %d of %s: %s", key.rank, key.run, error)
            return None
        return path

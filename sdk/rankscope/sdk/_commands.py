"""What the agent may ask of a rank, and what its sender answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rankscope.sdk._live import Glance
from rankscope.sdk._stacks import Unknown
from rankscope.v1 import ingest_pb2


@dataclass
class Commands:
    """Obeys the commands of one stream. `answers` wait to be sent; `wake` has it done, and the journal looked at."""

    glance: Glance
    where: Callable[[], Awaitable[str]] | None  # the stacks of the rank; raises Unknown. None: the rank is gone
    wake: Callable[[], None]
    answers: list[ingest_pb2.FromRank] = field(default_factory=list[ingest_pb2.FromRank])
    _asked: asyncio.Future[None] | None = None

    def obey(self, command: ingest_pb2.Command) -> None:
        """Do what is asked for; what this version does not know is left."""
        what = command.WhichOneof("body")
        if what == "set_rate":
            self.glance.set_rate(command.set_rate.what, command.set_rate.factor)
        elif what == "send_now":
            self.wake()
        elif what == "dump_stacks" and (self._asked is None or self._asked.done()):
            self._asked = asyncio.ensure_future(self._stacks(command.id))

    async def _stacks(self, command: int) -> None:
        answer = ingest_pb2.Stacks(command=command)
        try:
            if self.where is None:
                raise Unknown("the rank is gone")
            answer.text = await self.where()
        except Unknown as error:
            answer.refused = str(error)
        self.answers.append(ingest_pb2.FromRank(stacks=answer))
        self.wake()

"""An agent that is hard to reach: `python proxy.py LISTEN TARGET slow|reset` between two Unix sockets.

`slow` passes every byte on after 5 s, so that an answer takes 10; `reset` breaks every connection after 1 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

DELAY, LIFE = 5.0, 1.0


async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float) -> None:
    """Write what comes, `delay` seconds later, to the end of the source."""
    loop, pending = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

    async def write() -> None:
        while True:
            due, part = await pending.get()
            await asyncio.sleep(due - loop.time())
            if not part:
                return
            sink.write(part)
            await sink.drain()

    writer = asyncio.ensure_future(write())
    try:
        part = b"-"
        while part:
            part = await source.read(1 << 16)
            pending.put_nowait((loop.time() + delay, part))
        await writer
    finally:
        writer.cancel()


async def serve(listen: str, target: str, mode: str) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_unix_connection(target)
        delay = DELAY if mode == "slow" else 0.0
        both = asyncio.gather(pass_on(reader, forth, delay), pass_on(back, writer, delay))
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(both, LIFE if mode == "reset" else None)
        finally:
            for end in (writer, forth):
                end.transport.abort()

    server = await asyncio.start_unix_server(connected, listen)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:4]))

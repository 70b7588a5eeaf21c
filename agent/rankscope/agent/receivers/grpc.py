"""Takes the streams of training ranks over gRPC, on a Unix socket and, when asked for, on TCP."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc
import grpc.aio

from rankscope.agent.component import Intake, Session
from rankscope.agent.model import Seconds
from rankscope.agent.receivers._wire import Names, WireError, to_batch, to_heartbeat, to_info, to_stacks
from rankscope.v1 import ingest_pb2, ingest_pb2_grpc

log = logging.getLogger("rankscope.grpc")

PROTOCOL = 1
MAX_SOCKET_PATH = 107  # sizeof(sockaddr_un.sun_path) - 1

Context: TypeAlias = "grpc.aio.ServicerContext[ingest_pb2.FromRank, ingest_pb2.FromAgent]"


def default_socket() -> str:
    """Return where SDK and agent of one user meet: /run for root, the user's runtime folder else."""
    if os.geteuid() == 0:
        return "/run/rankscope/agent.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/rankscope-{os.geteuid()}"
    return f"{runtime}/rankscope/agent.sock"


@dataclass
class Grpc(ingest_pb2_grpc.IngestServicer):
    """Takes the streams of training ranks over gRPC.

    `listen` is a Unix socket (`unix:///path`, readable by its owner alone, or by `group` too). `tcp` (`host:port`)
    opens TCP beside it: beyond this machine only with `token`/`token_file` or `tls_cert_file`, unless `insecure`.
    """

    listen: str = field(default_factory=lambda: f"unix://{default_socket()}")
    group: str = ""  # a group of users that may connect, too
    tcp: str = ""  # host:port
    token: str = ""  # what ranks say over TCP: their RANKSCOPE_TOKEN
    token_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_client_ca_file: str = ""  # ranks show a certificate of this authority
    insecure: bool = False  # TCP for everyone
    heartbeat: Seconds = 5.0  # how often ranks say that they live
    max_message_bytes: int = 4 * 2**20  # larger messages are refused
    agent_version: str = field(default="", init=False)
    url: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if self.token_file:
            self.token = Path(self.token_file).read_text().strip()
        self._server: grpc.aio.Server | None = None
        self._intake: Intake | None = None
        self._socket: Path | None = None

    async def start(self, intake: Intake) -> None:
        """Listen. Raises OSError with what to do when an address cannot be had."""
        self._intake = intake
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self.max_message_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ],
            maximum_concurrent_rpcs=1024,
        )
        ingest_pb2_grpc.add_IngestServicer_to_server(self, self._server)
        self._listen_unix(self._server)
        if self.tcp:
            self._listen_tcp(self._server)
        await self._server.start()
        if self._socket is not None:
            self._protect(self._socket)

    def _listen_unix(self, server: grpc.aio.Server) -> None:
        path = Path(self.listen.removeprefix("unix:").replace("//", "/", 1) if self.listen.startswith("unix:") else "")
        if not path.is_absolute():
            raise OSError(f"grpc.listen: {self.listen!r} is no unix:///absolute/path; TCP is grpc.tcp")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise OSError(f"grpc.listen: {path} is longer than {MAX_SOCKET_PATH} bytes: choose a shorter path")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
                raise OSError(f"grpc.listen: {path} exists and is no socket: remove it or choose another path")
            if path.exists() and _answers(path):
                raise OSError(f"grpc.listen: another agent listens on {path}: stop it or choose another path")
            path.unlink(missing_ok=True)
        except PermissionError as error:
            raise OSError(f"grpc.listen: cannot create {path}: {error.strerror}: choose another path") from None
        mask = os.umask(0o177)
        try:
            bound = server.add_insecure_port(f"unix:{path}")
        except RuntimeError:
            bound = 0
        finally:
            os.umask(mask)
        if not bound:
            raise OSError(f"grpc.listen: cannot listen on {path}")
        self._socket = path

    def _protect(self, path: Path) -> None:
        """The owner alone may connect, or the configured group too."""
        if self.group:
            import shutil

            shutil.chown(path, group=self.group)
            path.chmod(0o660)
            path.parent.chmod(0o750)
            shutil.chown(path.parent, group=self.group)
        else:
            path.chmod(0o600)

    def _listen_tcp(self, server: grpc.aio.Server) -> None:
        address = f"0.0.0.0{self.tcp}" if self.tcp.startswith(":") else self.tcp
        local = address.rsplit(":", 1)[0] in ("127.0.0.1", "localhost", "[::1]")
        if not (local or self.token or self.tls_client_ca_file or self.insecure):
            raise OSError(
                f"grpc.tcp: {self.tcp} is open to other machines: set grpc.token_file or grpc.tls_client_ca_file, "
                "or say insecure: true"
            )
        try:
            if self.tls_cert_file:
                pair = (Path(self.tls_key_file).read_bytes(), Path(self.tls_cert_file).read_bytes())
                ca = Path(self.tls_client_ca_file).read_bytes() if self.tls_client_ca_file else None
                credentials = grpc.ssl_server_credentials([pair], ca, ca is not None)
                bound = server.add_secure_port(address, credentials)
            else:
                bound = server.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise OSError(f"grpc.tcp: {address} is taken or not an address of this machine: choose another")

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(grace=0.5)
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    def _admitted(self, context: Context) -> bool:
        """TCP peers say the token; who can open the Unix socket is already known to the kernel."""
        if not self.token or context.peer().startswith("unix"):
            return True
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        return hmac.compare_digest(str(given), f"Bearer {self.token}")

    async def Stream(  # noqa: N802 (the name in the protocol)
        self, request_iterator: AsyncIterator[ingest_pb2.FromRank], context: Context
    ) -> AsyncIterator[ingest_pb2.FromAgent]:
        """One rank's stream, from its hello to its end."""
        if not self._admitted(context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong or missing token: set RANKSCOPE_TOKEN")
        assert self._intake is not None
        messages = request_iterator.__aiter__()
        try:
            first = await messages.__anext__()
            if first.WhichOneof("body") != "hello":
                raise WireError("a stream begins with hello")
            session = await self._intake.open(to_info(first.hello))
        except StopAsyncIteration:
            return
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except OSError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"cannot write the record of this run: {error}")
        reader = asyncio.ensure_future(_read(messages, session))
        saved, asked = asyncio.ensure_future(session.saved()), asyncio.ensure_future(session.asked())
        for task in (reader, saved):
            task.add_done_callback(_noticed)  # both may end at once, and for the same reason
        try:
            yield self._welcome(session)
            while not reader.done():
                await asyncio.wait({reader, saved, asked}, return_when=asyncio.FIRST_COMPLETED)
                if saved.done():
                    yield ingest_pb2.FromAgent(ack=ingest_pb2.Ack(sequence=saved.result()))
                    saved = asyncio.ensure_future(session.saved())
                    saved.add_done_callback(_noticed)
                if asked.done():
                    yield ingest_pb2.FromAgent(command=_command(asked.result()))
                    asked = asyncio.ensure_future(session.asked())
            await reader
        except WireError as error:
            session.refuse("bad_payload", 1)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except ConnectionAbortedError as error:
            await context.abort(grpc.StatusCode.ABORTED, str(error))
        finally:
            reader.cancel()
            saved.cancel()
            asked.cancel()
            session.close()

    def _welcome(self, session: Session) -> ingest_pb2.FromAgent:
        return ingest_pb2.FromAgent(
            welcome=ingest_pb2.Welcome(
                protocol=PROTOCOL,
                agent_version=self.agent_version,
                safe_sequence=session.safe,
                run=session.rank.key.run,
                heartbeat_seconds=self.heartbeat,
                url=self.url,
            )
        )


def _noticed(task: asyncio.Future[None] | asyncio.Future[int]) -> None:
    """Take note of how a task ended, so that asyncio does not complain that nobody did."""
    if not task.cancelled():
        task.exception()


def _command(question: int | None) -> ingest_pb2.Command:
    if question is None:
        return ingest_pb2.Command(send_now=ingest_pb2.SendNow())
    return ingest_pb2.Command(id=question, dump_stacks=ingest_pb2.DumpStacks())


async def _read(messages: AsyncIterator[ingest_pb2.FromRank], session: Session) -> None:
    """Take what the rank sends until it has said all."""
    names = Names()
    async for message in messages:
        kind = message.WhichOneof("body")
        if kind == "batch":
            await session.take(to_batch(message.batch, names, session.refuse))
        elif kind == "heartbeat":
            session.beat(to_heartbeat(message.heartbeat))
        elif kind == "stacks":
            session.told(message.stacks.command, to_stacks(message.stacks))
        elif kind == "hello":
            raise WireError("hello comes once, at the start of a stream")


def _answers(path: Path) -> bool:
    """True when a process listens on the socket."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True

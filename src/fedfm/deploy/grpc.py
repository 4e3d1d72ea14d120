"""The default carrier: gRPC, one two-way stream a party, mutual TLS; it goes through proxies as HTTP/2 does.

The versions of TLS (1.2 and 1.3) and its ciphers are the library's; its Python interface lets nobody set them. Flow control is
HTTP/2's: a sender waits for the receiver, shard by shard. A peer that is killed is noticed when its socket closes, one
that is stopped by its silence: each end says something at least every few seconds (gRPC's own pings let 30 s pass).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

from cryptography import x509

from fedfm.core.errors import FedfmError, MachineFault, MessageRefused, MissingExtra
from fedfm.deploy.authority import SERVER_NAME, Credentials
from fedfm.deploy.letters import SHARD, Letter, Reader, shards
from fedfm.deploy.reception import versions
from fedfm.deploy.transport import SERVER, Frame

try:
    import grpc
except ImportError as e:
    raise MissingExtra("grpcio", "deploy", "a federation of real parties") from e

METHOD = "/fedfm.Federation/Link"
HELLO = "/fedfm.Federation/Hello"  # a greeting that ends before joining, and takes nobody's link
UNREAD = 4  # letters of one link that wait to be read, before its sender waits
BACK_OFF_S = (0.1, 5.0)  # between two attempts to dial: the first, the longest
BEAT_S, PATIENCE_S = 2.0, 8.0  # how often each end says something, and how long silence is borne
BEAT = "beat"
OPTIONS = [
    ("grpc.max_receive_message_length", SHARD + 4096),
    ("grpc.max_send_message_length", SHARD + 4096),
    ("grpc.so_reuseport", 0),
]


class _Link:
    """One connection under way, on the loop's thread."""

    def __init__(self, peer: str, number: int, most: int):
        self.peer, self.number = peer, number
        self.reader = Reader(most)
        self.outbox: asyncio.Queue[Letter | None] = asyncio.Queue()
        self.unread = asyncio.Semaphore(UNREAD)
        self.ended = ""  # why this end has ended it
        self.heard, self.full = 0, False  # how often it said anything; it cannot while nobody reads
        self.refused = False  # the other end will not have this one: it is not dialled again


class _Carrier:
    """What both ends share: a loop in a thread of its own, frames for one reader, letters out."""

    def __init__(self, most: int):
        self.most, self.beat_s, self.patience_s = most, BEAT_S, PATIENCE_S
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fedfm-links", daemon=True)
        self._frames: queue.SimpleQueue[tuple[Frame, _Link]] = queue.SimpleQueue()
        self._links: dict[str, _Link] = {}
        self._numbers = itertools.count(1)
        self._totals: Counter[str] = Counter()

    @property
    def totals(self) -> Mapping[str, int]:
        return dict(self._totals)

    def send(self, peer: str, letter: Letter) -> None:
        self._loop.call_soon_threadsafe(self._put, peer, letter)

    def _put(self, peer: str, letter: Letter | None) -> None:
        if (link := self._links.get(peer)) is not None:
            link.outbox.put_nowait(letter)

    def receive(self, timeout_s: float | None = None) -> Frame | None:
        try:
            frame, link = self._frames.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if frame.kind == "letter":
            self._loop.call_soon_threadsafe(link.unread.release)
        return frame

    def drop(self, peer: str, why: str) -> None:
        self.send(peer, Letter({"do": "refused", "why": why}))
        self._loop.call_soon_threadsafe(self._put, peer, None)

    def _run(self, work: Coroutine[Any, Any, Any], timeout_s: float = 30.0) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout_s)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)

    async def _carry(self, link: _Link, stream: Any, end: Callable[[], Any]) -> None:
        """Both directions of one link until it ends; `stream` has `read` and `write`. Tells of its beginning and end."""
        if (old := self._links.get(link.peer)) is not None:
            old.ended = "it has dialled anew"
            why = "another process has dialled in with its certificate, and takes its place"
            old.outbox.put_nowait(Letter({"do": "refused", "why": why}))  # read by a process that still lives
            old.outbox.put_nowait(None)
        self._links[link.peer] = link
        self._frames.put((Frame(link.peer, link.number, "linked"), link))
        writing = asyncio.create_task(self._write(link, stream))
        reading = asyncio.create_task(self._read(link, stream))
        beating = asyncio.create_task(self._beat(link))
        tasks, why = (writing, reading, beating), "the link was closed"
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                why = task.result() or why
        except Exception as e:  # noqa: BLE001 - whatever breaks a link, the reader hears of it, and a party dials again
            why = _words(e)
        finally:
            for task in tasks:
                task.cancel()
            end()
            if self._links.get(link.peer) is link:
                del self._links[link.peer]
            said = Letter({"do": "lost", "why": link.ended or why})
            self._frames.put((Frame(link.peer, link.number, "lost", said), link))

    async def _write(self, link: _Link, stream: Any) -> str:
        while (letter := await link.outbox.get()) is not None:
            for shard in shards(letter):
                await stream.write(shard)
                self._totals["sent"] += len(shard)
        return link.ended or "it was dropped"

    async def _beat(self, link: _Link) -> str:
        """Say something now and then; ends when the other end has been silent for too many beats in a row.

        Beats of one's own are counted, no clock is read: what stands still here is no silence over there.
        """
        quiet_s = 0.0
        while quiet_s < self.patience_s:
            before = link.heard
            await asyncio.sleep(self.beat_s)
            quiet_s = 0.0 if link.full or link.heard > before else quiet_s + self.beat_s
            if link.outbox.empty():
                link.outbox.put_nowait(Letter({"do": BEAT}))
        return f"it has been silent for {self.patience_s:g} s"

    async def _read(self, link: _Link, stream: Any) -> str:
        while (shard := await stream.read()) is not grpc.aio.EOF:
            self._totals["received"] += len(shard)
            link.heard += 1
            try:
                letter = link.reader.feed(shard)
            except MessageRefused as e:
                return f"it sent {e}"
            if letter is not None and letter.head["do"] != BEAT:
                link.refused = letter.head["do"] == "refused"
                link.full = link.unread.locked()
                await link.unread.acquire()
                link.full, link.heard = False, link.heard + 1
                self._frames.put((Frame(link.peer, link.number, "letter", letter), link))
        return "the link was closed"


class GrpcServer(_Carrier):
    """The server's end. `admit(name, serial)`: why a certificate's holder may not take part; empty: it may."""

    def __init__(self, address: str, credentials: Credentials, admit: Callable[[str, int], str], most: int):
        super().__init__(most)
        self.address, self._credentials, self._admit = address, credentials, admit

    def open(self) -> None:
        self._thread.start()
        try:
            self._run(self._listen())
        except (RuntimeError, OSError) as e:
            self._stop()
            raise MachineFault(
                f"{self.address} cannot be listened on: {_words(e)}\n    fix: another --address HOST:PORT"
            ) from e

    async def _listen(self) -> None:
        own = self._credentials
        tls = grpc.ssl_server_credentials(
            [(own.key, own.certificate)], root_certificates=own.authority, require_client_auth=True
        )
        self._server = grpc.aio.server(options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._link)
        service, method = METHOD[1:].split("/")
        greeting = grpc.unary_unary_rpc_method_handler(self._hello)
        methods = {method: handler, HELLO.rpartition("/")[2]: greeting}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        port = self._server.add_secure_port(self.address, tls)
        self.address = f"{self.address.rpartition(':')[0]}:{port}"
        await self._server.start()

    async def _link(self, _: Any, context: Any) -> None:
        name = await self._admitted(context)
        await context.send_initial_metadata(())  # the party knows that it is taken
        await self._carry(_Link(name, next(self._numbers), self.most), context, lambda: None)

    async def _hello(self, _: bytes, context: Any) -> bytes:
        await self._admitted(context)
        return json.dumps(versions()).encode()

    async def _admitted(self, context: Any) -> str:
        """The name that the other end has proven; the call ends here for whoever may not take part."""
        names = context.auth_context()
        name: str = names.get("x509_common_name", [b""])[0].decode(errors="replace")
        pem = names.get("x509_pem_cert", [b""])[0]
        number = x509.load_pem_x509_certificate(pem).serial_number if pem else 0
        if why := self._admit(name, number):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{name} {why}")
        return name

    def close(self) -> None:
        for peer in list(self._links):
            self._loop.call_soon_threadsafe(self._put, peer, None)
        with contextlib.suppress(Exception):  # it ends with the process whatever happens
            self._run(self._server.stop(grace=2.0))
        self._stop()


class GrpcParty(_Carrier):
    """A party's end: it dials out, and dials again with back-off when the link is lost, until it is closed."""

    def __init__(self, address: str, credentials: Credentials, most: int):
        super().__init__(most)
        self.address, self._credentials = address, credentials
        self._closing = False

    def open(self) -> None:
        self._thread.start()
        self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._dial()))

    async def _dial(self) -> None:
        own, wait_s = self._credentials, BACK_OFF_S[0]
        tls, options = _secure(own)
        while not self._closing:
            async with grpc.aio.secure_channel(self.address, tls, options=options) as channel:
                call = channel.stream_stream(METHOD)()
                try:
                    await call.initial_metadata()
                    if call.done():
                        self._unlinked(await call.code(), await call.details())
                    else:
                        wait_s = BACK_OFF_S[0]
                        link = _Link(SERVER, next(self._numbers), self.most)
                        await self._carry(link, call, call.cancel)
                        if link.refused:
                            return
                except grpc.aio.AioRpcError as e:
                    self._unlinked(e.code(), e.details())
                except Exception as e:  # noqa: BLE001 - it dials for as long as it lives
                    self._unlinked(None, _words(e))
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, BACK_OFF_S[1])

    def _unlinked(self, code: Any, details: str | None) -> None:
        """A dial that came to nothing is a link that was lost at once; a refusal is for good."""
        do = "refused" if code == grpc.StatusCode.PERMISSION_DENIED else "lost"
        link = _Link(SERVER, next(self._numbers), self.most)
        said = Letter({"do": do, "why": str(details or code).split("\n")[0]})
        self._frames.put((Frame(SERVER, link.number, "lost", said), link))

    def close(self) -> None:
        self._closing = True
        self._loop.call_soon_threadsafe(self._put, SERVER, None)
        self._stop()


def _secure(own: Credentials) -> tuple[Any, list[tuple[str, Any]]]:
    """What a party's channel is made of."""
    tls = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    return tls, [*OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME)]


def hello(address: str, own: Credentials, timeout_s: float) -> dict[str, Any]:
    """The versions of the server at HOST:PORT: protocol, fedfm, torch; nobody's link is touched by asking.

    Raises PermissionError, with the server's words, where it would not have this party; FedfmError where it does not answer.
    """
    tls, options = _secure(own)
    with grpc.secure_channel(address, tls, options=options) as channel:
        try:
            told = json.loads(channel.unary_unary(HELLO)(b"", timeout=timeout_s))
        except grpc.RpcError as e:
            if e.code() == grpc.StatusCode.PERMISSION_DENIED:
                raise PermissionError(_words(e)) from e
            raise FedfmError(_words(e)) from e
        except (ValueError, RecursionError) as e:
            raise FedfmError(f"its greeting is none ({type(e).__name__})") from e
    return told if isinstance(told, dict) else {}


def _words(e: BaseException) -> str:
    details = e.details() if hasattr(e, "details") else ""
    return str(details or e or type(e).__name__).split("\n")[0]


__all__ = ["FedfmError", "GrpcParty", "GrpcServer"]

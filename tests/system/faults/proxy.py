"""A bad network between a client and its broker: a TCP proxy with faults that a test controls.

It runs on its own thread; every method is called from the test's thread and takes effect before it
returns. Bytes are forwarded unchanged and in order; the faults are which bytes, how fast and until
when.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
UP, DOWN = "up", "down"
"""Directions: to the broker, from the broker."""
_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: the close is a reset
_WAIT_S = 20.0


@dataclass
class Weather:
    """The current faults; tests change them through ``Proxy``."""

    delay_s: float = 0.0
    bytes_per_s: float = float("inf")
    chunk_bytes: int = _CHUNK
    cut_after: int | None = None
    """Bytes in ``cut_direction`` after which the connection is reset."""
    cut_direction: str = UP


class Proxy:
    """Forward a port of its own to ``target_port``."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._weather = Weather()
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._flow = asyncio.Event()
        self._has_cut = threading.Event()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        # Bound for as long as the proxy lives: while it refuses, nobody else gets its port.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port = int(self._place.getsockname()[1])
        self.num_connections = 0
        self.heal()

    # Called by the tests.

    def heal(self) -> None:
        """Accept and forward everything at full speed, including bytes held back so far."""
        self._run(self._heal)

    def black_hole(self) -> None:
        """Silently drop everything in both directions; connections stay open."""
        self._run(self._hold)

    def refuse(self) -> None:
        """Break all connections, and refuse new ones."""
        self._run(self._refuse)

    def reset(self) -> None:
        """Reset all connections; new ones work."""
        self._run(self._reset)

    def half_open(self) -> None:
        """Close the connections to the broker only; the clients notice nothing."""
        self._run(self._half_open)

    def slow(
        self,
        *,
        delay_s: float = 0.0,
        bytes_per_s: float = float("inf"),
        chunk_bytes: int = _CHUNK,
    ) -> None:
        """Delay each chunk, limit the rate, or split everything into small chunks."""
        self._weather = Weather(delay_s, bytes_per_s, chunk_bytes)

    def cut_after(self, num_bytes: int, direction: str) -> None:
        """Break the connection after this many more bytes in one direction: within a packet."""
        self._has_cut.clear()
        self._weather = Weather(cut_after=num_bytes, cut_direction=direction)

    def wait_for_cut(self) -> None:
        """Wait until ``cut_after`` has happened."""
        assert self._has_cut.wait(_WAIT_S), "the connection was never cut"

    def inject(self, data: bytes) -> None:
        """Send bytes to the clients that the broker never sent."""

        async def send() -> None:
            for client, _ in self._pairs:
                client.write(data)

        self._run(send)

    def close(self) -> None:
        """Break everything and end the thread."""
        self._run(self._refuse)
        self._run(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WAIT_S)
        self._loop.close()
        self._place.close()

    # Runs on the thread of the proxy.

    def _run(self, action: Callable[[], Awaitable[T]]) -> T:
        async def act() -> T:
            return await action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(_WAIT_S)

    async def _heal(self) -> None:
        self._weather = Weather()
        self._flow.set()
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port, reuse_address=True
            )

    async def _hold(self) -> None:
        self._flow.clear()

    async def _reset(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for writer in pair:
                _break(writer)

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()
        self._flow.set()

    async def _half_open(self) -> None:
        self._flow.clear()
        for _, broker in self._pairs:
            _break(broker)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            back, broker = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _break(client)
            return
        for writer in (client, broker):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append((client, broker))
        for source, sink, direction in ((reader, broker, UP), (back, client, DOWN)):
            task = self._loop.create_task(self._pump(source, sink, direction))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                await self._flow.wait()
                await asyncio.sleep(self._weather.delay_s)
                for start in range(0, len(data), self._weather.chunk_bytes):
                    piece = data[start : start + self._weather.chunk_bytes]
                    await self._pass_on(piece, sink, direction)
        await self._flow.wait()
        sink.close()

    async def _pass_on(self, piece: bytes, sink: asyncio.StreamWriter, direction: str) -> None:
        weather = self._weather
        if weather.cut_after is not None and direction == weather.cut_direction:
            is_over = len(piece) >= weather.cut_after
            piece = piece[: weather.cut_after]
            weather.cut_after -= len(piece)
            if is_over:
                sink.write(piece)
                with contextlib.suppress(OSError):
                    await sink.drain()
                self._weather = Weather()
                await self._reset()
                self._has_cut.set()
                return
        sink.write(piece)
        await sink.drain()
        await asyncio.sleep(len(piece) / weather.bytes_per_s)


def _break(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextlib.contextmanager
def proxy(target_port: int) -> Iterator[Proxy]:
    """Run a proxy in front of a port."""
    started = Proxy(target_port)
    try:
        yield started
    finally:
        started.close()

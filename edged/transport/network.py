"""The network thread: the only thread that touches paho.

Rule: other threads put commands into a queue and wake this one. So there is no lock, a packet id is
always compared with the connection it is used on, and a confirmation cannot come before the
message it confirms is known.
"""

import contextlib
import itertools
import logging
import random
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from edged.protocol.wire import Delivery, Encoded, WireProperties
from edged.transport.clock import boot_s
from edged.transport.connection import IDLE_S, WAKE_BYTES, Connection
from edged.transport.events import (
    Cause,
    Connected,
    ConnectFailed,
    Disconnected,
    Published,
    TransportEvent,
)
from edged.transport.explain import Failure, explain_error, explain_silence
from edged.transport.outbox import Outbox, Outgoing
from edged.transport.paho_client import make_client
from edged.transport.settings import BrokerSettings, Will, tls_context

_LOG = logging.getLogger(__name__)
AUTO, V5, V311 = "auto", "5", "3.1.1"
# Events that may wait for the consumer before nothing more is read from the socket.
MAX_BACKLOG = 64
# Sleep between two looks at a backlog that is too long.
FLOODED_S = 0.002
# Pause after a session was taken over: two clients with one identifier would alternate.
TAKEN_OVER_S = 60.0
# A connection that lasted as long resets the back-off. Longer than the longest pause, because
# Mosquitto 2.0.11 closes a connection that is taken over without a reason code.
STABLE_S = 120.0
# So does one that lasted this many times the previous pause: two clients that take each other's
# session never reach it, and a network that fails each minute costs a second each time.
STABLE_PAUSES = 8
# Longest pause while no broker answers: an attempt is cheap, and its return is noticed soon.
UNREACHABLE_MAX_S = 8.0


class Backoff:
    """Doubling pauses with jitter, so that a fleet does not reconnect at the same moment.

    Broken connections and failed attempts have a series each: the first protects against two
    clients with one identifier, the second waits for a broker or network that is down.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._min_s, self._max_s = settings.retry_min_s, settings.retry_max_s
        self._broken_s = self._failed_s = settings.retry_min_s
        self._last_s = 0.0
        self._random = random.SystemRandom()

    def note_connection(self, duration_s: float) -> None:
        """Reset the pauses after a connection that lasted long enough to count as good."""
        if duration_s >= min(STABLE_S, STABLE_PAUSES * self._last_s):
            self._broken_s = self._min_s

    def next_s(
        self, *, was_connected: bool, is_taken_over: bool = False, is_probing: bool = False
    ) -> float:
        """Return the next pause.

        Args:
            was_connected: An established connection broke, rather than an attempt failed.
            is_taken_over: Another client took the session.
            is_probing: It broke on a message that was sent alone to test it (see ``Outbox``),
                which says nothing about broker and network.
        """
        if is_probing:
            return self._min_s
        if is_taken_over:
            return max(TAKEN_OVER_S, self._max_s)
        if was_connected:
            pause_s, self._failed_s = self._broken_s, self._min_s
            self._broken_s = min(self._max_s, self._broken_s * 2)
        else:
            pause_s = self._failed_s
            self._failed_s = min(self._max_s, UNREACHABLE_MAX_S, self._failed_s * 2)
        self._last_s = pause_s * self._random.uniform(0.5, 1.0)
        return self._last_s


class Transport:
    """A connection to one broker that is re-established without end.

    Args:
        settings: Where to connect, and how.
        subscriptions: Topic filters, QoS 1.
        will: What the broker publishes when this process is gone.
        emit: Takes every event, on the network thread; must neither block nor raise, since an
            exception ends the thread (see ``is_alive``).
        epochs: Numbers the connections, where further transports have the same client identifier.
        backlog: Returns how many events wait for the consumer. While there are too many, nothing
            is read: what a broker sends beyond the Receive Maximum stays with the broker.

    Raises:
        UnavailableError: The CA file cannot be read.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        subscriptions: Sequence[str],
        will: Will | None,
        emit: Callable[[TransportEvent], None],
        backlog: Callable[[], int] = lambda: 0,
        epochs: Iterator[int] | None = None,
    ) -> None:
        self.settings = settings
        self._emit = emit
        self._backlog = backlog
        self._handles = itertools.count(1)
        self._commands: deque[Outgoing | Delivery | float] = deque()  # a float: stop by then
        self._outbox = Outbox(None if will is None else will.topic)
        self._subscriptions = subscriptions
        self._will = will
        self._tls = tls_context(settings.ca_file) if settings.address.is_tls else None
        self._version = V5 if settings.protocol == AUTO else settings.protocol
        self._epochs = itertools.count(1) if epochs is None else epochs
        self._connection = self._make_connection()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.settimeout(0)
        self._wake_writer.settimeout(0)
        self._is_asleep = False  # set before the commands are looked at, so none is missed
        self._is_5_refused = False
        self._backoff = Backoff(settings)
        self._num_closed = 0
        self._stop_by_s: float | None = None
        self.num_stale_acknowledgements = 0
        """Acknowledgements ignored because their connection has ended; the broker redelivers."""
        self._thread = threading.Thread(target=self._run, name="edged-mqtt", daemon=True)

    def start(self) -> None:
        """Start connecting, in the background."""
        self._thread.start()

    def publish(self, message: Encoded, *, qos: int = 1, retain: bool = False) -> int:
        """Send a message, without blocking.

        With QoS 1 it is kept across connections until the broker confirms it, and one ``Published``
        event follows; with QoS 0 it is lost without a connection. A message on which the broker
        ends every connection is given up.
        """
        handle = next(self._handles)
        self._command(Outgoing(handle, message, qos, retain, boot_s()))
        return handle

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a delivery, without blocking; ignored when its connection has ended."""
        if delivery.qos > 0:
            self._command(delivery)

    def is_alive(self) -> bool:
        """Whether the network thread is running; without it nothing here works."""
        return self._thread.is_alive()

    def stop(self, farewell: Sequence[Will] = (), timeout_s: float = 5.0) -> None:
        """Publish the farewell, wait for unconfirmed messages, disconnect, end the thread.

        Blocks at most ``timeout_s``; returns at once without a connection. The will is not
        published unless the connection broke before.
        """
        for word in farewell:
            message = Encoded(word.topic, word.payload, WireProperties())
            self.publish(message, qos=word.qos, retain=word.retain)
        self.request_stop(timeout_s)
        if self._thread.is_alive():
            self._thread.join(timeout_s + IDLE_S)
        elif self._thread.ident is None:
            self._close_wake()

    def request_stop(self, timeout_s: float) -> None:
        """Have it wait for unconfirmed messages, disconnect and end, without blocking.

        ``stop`` may follow. Until then, another connection under this client identifier could be
        taken over by this one.
        """
        self._command(boot_s() + timeout_s)

    def _command(self, command: Outgoing | Delivery | float) -> None:
        self._commands.append(command)
        if self._is_asleep:  # otherwise it looks at the commands before it sleeps
            self._is_asleep = False
            with contextlib.suppress(OSError):  # the thread has just ended
                self._wake_writer.send(b"\0")

    def _run(self) -> None:
        try:
            while self._stop_by_s is None:
                failure = self._connect_and_serve()
                if self._stop_by_s is None and not self._switch_version(failure):
                    self._report_and_pause(failure)
        finally:
            self._connection.abort()  # after an exception, so that the broker publishes the will
            self._close_wake()

    def _close_wake(self) -> None:
        self._wake_reader.close()
        self._wake_writer.close()

    def _make_connection(self) -> Connection:
        client = make_client(self.settings, self._version, self._will, self._tls)
        return Connection(client, self.settings, self._version, self._subscriptions, self._epochs)

    def _connect_and_serve(self) -> Failure:
        """Connect, and work until the connection has ended; return why it did."""
        connection = self._connection = self._make_connection()
        started_s, limit_s = boot_s(), self.settings.handshake_timeout_s
        try:
            connection.open()
        except (OSError, UnicodeError) as error:
            return explain_error(error, self.settings.address)
        while connection.is_open:
            self._is_asleep = True
            is_flooded = self._backlog() > MAX_BACKLOG
            wait_s = 0.0 if self._commands else FLOODED_S if is_flooded else IDLE_S
            connection.step(self._wake_reader, wait_s, may_read=not is_flooded)
            self._take_commands()
            self._hand_over()
            is_pending = connection.is_open and not connection.is_ready
            if self._is_finished():
                connection.close()
            elif is_pending and boot_s() - started_s > limit_s:
                connection.failure = explain_silence(self.settings.address)
                connection.abort()
        self._hand_over()
        if connection.was_ready:
            duration_s = boot_s() - started_s
            self._backoff.note_connection(duration_s)
            if duration_s >= STABLE_S:
                self._num_closed = 0
        failure = connection.failure or Failure("the connection broke", Cause.UNKNOWN)
        self._emit_all(self._outbox.broken(failure.cause, boot_s()))
        return failure

    def _take_commands(self) -> None:
        self._is_asleep = False
        while self._commands:
            match self._commands.popleft():
                case Outgoing(qos=0) if not self._connection.is_ready:
                    pass  # lost, as QoS 0 allows
                case Outgoing() as outgoing:
                    self._emit_all(self._outbox.append(outgoing))
                case Delivery() as delivery:
                    is_done = self._connection.acknowledge(delivery)
                    self.num_stale_acknowledgements += not is_done
                case stop_by_s:
                    self._stop_by_s = stop_by_s

    def _hand_over(self) -> None:
        """Emit what has arrived, then send what the broker accepts now."""
        inbox = self._connection.inbox
        while inbox:
            event = inbox.popleft()
            if isinstance(event, Connected):
                self._outbox.begin()
            elif isinstance(event, Published) and not self._outbox.confirm(
                event.handle, is_taken=event.failure is None, now_s=boot_s()
            ):
                continue  # nobody waits for it
            self._emit(event)
        self._emit_all(self._outbox.send(self._connection, boot_s()))

    def _emit_all(self, events: Iterable[Published]) -> None:
        for event in events:
            self._emit(event)

    def _is_finished(self) -> bool:
        if self._stop_by_s is None:
            return False
        is_idle = not self._outbox and self._connection.is_idle
        is_late = boot_s() >= self._stop_by_s
        return is_idle or is_late or not self._connection.is_ready

    def _switch_version(self, failure: Failure) -> bool:
        """Change to the other version of MQTT if that may help; True to reconnect at once."""
        if self.settings.protocol != AUTO or self._is_5_refused:
            return False
        if self._version == V5 and failure.cause not in (Cause.VERSION, Cause.UNANSWERED):
            return False
        if self._version == V5:
            self._is_5_refused = failure.cause is Cause.VERSION
            self._version = V311
        else:
            # The silence may have had another reason, such as a broker that was just starting.
            self._version = V5
        _LOG.info("%s: trying MQTT %s", self.settings.address.url, self._version)
        return self._version == V311

    def _report_and_pause(self, failure: Failure) -> None:
        was_connected, is_taken_over = self._connection.was_ready, failure.cause is Cause.TAKEN_OVER
        is_probing = was_connected and self._outbox.is_probing
        pause_s = self._backoff.next_s(
            was_connected=was_connected, is_taken_over=is_taken_over, is_probing=is_probing
        )
        if was_connected:
            # One that is closed on a message has its reason: the outbox finds it.
            self._num_closed += failure.is_closed and not is_probing
            num_closed = self._num_closed if failure.is_closed else 0
            self._emit(Disconnected(failure.reason, pause_s, is_taken_over, num_closed))
        else:
            self._num_closed = 0  # a broker that starts anew, or a network that is down
            self._emit(ConnectFailed(failure.reason, pause_s))
        over_s = boot_s() + pause_s
        while self._stop_by_s is None and (left_s := over_s - boot_s()) > 0:
            self._is_asleep = True
            wait_s = 0.0 if self._commands else left_s
            if select.select([self._wake_reader], [], [], wait_s)[0]:
                self._wake_reader.recv(WAKE_BYTES)
            self._take_commands()

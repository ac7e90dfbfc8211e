"""The order in which deliveries are acknowledged: as they came, while there is room.

MQTT asks for that order ([MQTT-4.6.0-2]), and rumqttd closes the connection of a client that does
not keep it. Yet what waits for its turn fills the Receive Maximum, behind which nothing comes, not
even a cancel; so near that limit what is done is acknowledged at once. Mosquitto does not mind;
where a broker does, what is unacknowledged comes again on the next connection: nothing is lost.
"""

from collections.abc import Callable

ROOM = 4
"""Deliveries that must still fit under the Receive Maximum for the order to be kept."""
STOCK_WINDOW = 20
"""What Mosquitto as it comes has unacknowledged at a time, whatever the Receive Maximum."""


class Acknowledgements:
    """The deliveries of one connection that wait for their acknowledgement; the next has its own.

    Args:
        receive_maximum: Deliveries the broker may have unacknowledged at a time.
        send: Sends the acknowledgement of a packet id.
    """

    def __init__(self, receive_maximum: int, send: Callable[[int], object]) -> None:
        self._limit = min(receive_maximum, STOCK_WINDOW) - ROOM
        self._send = send
        self._is_done: dict[int, bool] = {}  # by packet id, in order of arrival

    def note_delivery(self, packet_id: int) -> None:
        """Note that a delivery came that needs an acknowledgement."""
        self._is_done[packet_id] = False

    def flush(self) -> None:
        """Acknowledge all that is dealt with, whatever its turn: the connection is to end.

        What stays unacknowledged is left to the next process; behind it, an answered request would
        be delivered, and answered, a second time.
        """
        for packet_id, is_done in self._is_done.items():
            if is_done:
                self._send(packet_id)
        self._is_done.clear()

    def finish(self, packet_id: int) -> None:
        """Note that a delivery is dealt with, and acknowledge those whose turn it is."""
        self._is_done[packet_id] = True
        for waiting, is_done in list(self._is_done.items()):
            if is_done:
                del self._is_done[waiting]
                self._send(waiting)
            elif len(self._is_done) <= self._limit:
                break

"""Replies and fragments on their way out: encoded for their requester, and published.

Rule: decides nothing; whether, when and what is said is the service's.
"""

from edged.engine.generation import Fragment
from edged.node.metrics import Count, Metrics
from edged.node.ports import Edges, Limits
from edged.protocol import encode_fragment, encode_reply
from edged.protocol.request import Reply, Request


class Speaker:
    """Publish what requesters get.

    Args:
        edges: The transport and the clock.
        limits: The names of node and model.
        metrics: Where duplicates are counted.
    """

    def __init__(self, edges: Edges, limits: Limits, metrics: Metrics) -> None:
        self._edges = edges
        self._limits = limits
        self._metrics = metrics

    def reply(self, reply: Reply, expires_s: float) -> tuple[int, int]:
        """Publish a reply; return its handle and the bytes of its payload."""
        if reply.is_duplicate:
            self._metrics.count(Count.DUPLICATES)
        message = encode_reply(
            reply,
            node=self._limits.defaults.node,
            model_id=self._limits.model_id,
            seconds_left=expires_s - self._edges.clock(),
        )
        return self._edges.transport.publish(message, qos=1), len(message.payload)

    def fragment(self, request: Request, fragment: Fragment) -> None:
        """Publish a piece of a streamed answer."""
        message = encode_fragment(
            self._limits.defaults.topics,
            request.reply_to.request_id or "",  # a request to stream has one
            fragment.sequence,
            fragment.delta,
            is_done=fragment.is_done,
        )
        self._edges.transport.publish(message, qos=0)

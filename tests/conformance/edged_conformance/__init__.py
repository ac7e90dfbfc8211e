"""Whether a node, over the wire, does what ``docs/protocol.md`` says.

Rule: nothing here is shared with edged, so no fault of its reading, writing or transport can hide
itself; the protocol is spelled out a second time in ``rules``.
"""

__version__ = "0.1.0"

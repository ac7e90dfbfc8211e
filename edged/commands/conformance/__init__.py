"""``edged conformance``: whether any node, over the wire, does what ``docs/protocol.md`` says.

Rule: nothing here uses the daemon's own reading and writing of messages, nor its transport, so a
fault of theirs cannot hide itself; the protocol is spelled out a second time in ``rules``.
"""

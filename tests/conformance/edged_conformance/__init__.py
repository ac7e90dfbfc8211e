"""Conformance tests: whether a node behaves over MQTT as ``docs/protocol.md`` says.

Rule: no code is shared with edged, so an error in its encoding or transport cannot hide itself;
``rules`` implements the protocol a second time.
"""

__version__ = "0.2.0"

"""The wire contract: requests from bytes and MQTT properties, replies and events to bytes.

Rule: pure; no clock, no broker. ``docs/protocol.md`` is the specification for clients.
"""

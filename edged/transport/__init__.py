"""The connection to the MQTT broker: paho-mqtt, one network thread, at-least-once delivery.

Rule: no other room imports paho. Only the consumer acknowledges a request, and only on the
connection that delivered it.
"""

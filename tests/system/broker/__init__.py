"""Tests against real MQTT brokers."""

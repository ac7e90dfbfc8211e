"""Malicious messages, for the tests and for the load of a hostile client."""

"""Messages that are meant to take the node down, for tests and for the load of a hostile client."""

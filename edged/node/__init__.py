"""The node's decisions: what is done with each message, and when."""

"""Simulation: hours of generated requests through the daemon's own node."""

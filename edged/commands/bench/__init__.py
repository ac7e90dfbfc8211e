"""``edged bench``: what a model, or MQTT and the daemon without one, take on this device.

Rule: the daemon imports nothing from here. ``benchmarks.compare`` measures other engines with the
same turns and processes.
"""

"""``edged bench``: speed and memory of a model on this device.

Rule: the daemon imports nothing from here. ``benchmarks`` reuses it to measure other engines.
"""

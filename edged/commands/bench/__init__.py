"""``edged bench``: this device's figures, beside those of other engines with the same weights.

Rule: nothing here is imported by the daemon, and no engine is imported by the process that
compares: each runs in a process of its own.
"""

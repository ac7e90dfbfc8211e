"""edged beside other engines with the same weights, on this machine.

Rule: no engine is imported by the process that compares: each runs in a process of its own.
"""

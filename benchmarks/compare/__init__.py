"""edged compared with other engines with the same weights, on this machine.

Rule: the comparing process imports no engine: each runs in its own process.
"""

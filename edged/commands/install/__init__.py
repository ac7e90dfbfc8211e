"""``edged install`` and ``edged uninstall``: put a service on this machine, and take it off again.

Rule: a plan is a list of steps, each of which knows whether it is done; installing twice changes
nothing, and ``--dry-run`` prints what the same steps would do.
"""

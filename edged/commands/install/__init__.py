"""``edged install`` and ``edged uninstall``: put a service on this machine, and take it off again.

Rule: whatever is changed is looked at first and goes through ``machine``, so installing twice
changes nothing, and ``--dry-run`` prints the same lines.
"""

"""``edged install`` and ``edged uninstall``.

Rule: every change goes through ``machine`` and is made only if needed, so a second installation
changes nothing, and ``--dry-run`` prints the same lines.
"""

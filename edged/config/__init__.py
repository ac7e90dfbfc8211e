"""Configuration: text in, one frozen, typed value out.

Rule: a key is declared once, in ``edged.config.keys``; loading, the command line and
``docs/configuration.md`` all use that declaration.
"""

"""The protocol for programs: JSON Schema and AsyncAPI, generated from the declarations in the code.

Rule: enumerations, bounds and codes are taken from their declarations, never repeated here;
``docs/protocol.md`` is the text for people, and a test compares the two.
"""

"""The protocol for programs: JSON Schema and AsyncAPI, made from what the code validates with.

Rule: an enumeration, a bound or a code is never written here, only taken from its declaration;
``docs/protocol.md`` stays the text for people, and a test compares the two.
"""

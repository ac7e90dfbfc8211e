"""Answers of JSON written in few tokens, and read back: from a schema, without a model."""

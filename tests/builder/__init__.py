"""Tests of the builder, on tiny random models."""

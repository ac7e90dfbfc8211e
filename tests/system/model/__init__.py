"""Tests on the real SmolLM2-135M-Instruct."""

"""Build a bundle from a model: needs the ``build`` extra, never imported by the runtime."""

"""What a model folder must hold, and whether it does: the manifest, the files, their hashes."""

"""The arm64 build, run on an emulated processor."""

"""Which devices of a home a command means: rules, where a model says only what was said."""

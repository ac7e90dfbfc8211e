"""Which requests are admitted and in which order they run; pure: no clock, no thread, no I/O."""

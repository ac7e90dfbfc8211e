"""The running service: threads, files, sensors and systemd around the node."""

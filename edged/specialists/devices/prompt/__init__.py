"""What a prompt says of devices, where a model wrote less of it, or something else."""

"""What is taught to a model: small folders that turn its hidden states into decisions."""

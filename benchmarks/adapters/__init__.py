"""What an adapter costs: a token of the plain model, of one specialist, and of four together."""

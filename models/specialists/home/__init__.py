"""The home specialist: a command in plain English becomes actions among a home's devices."""

"""How well written answers are learned from few examples: commands of a home as JSON."""

"""What specialists are worth on sets of sentences: taught from few, tested on many."""

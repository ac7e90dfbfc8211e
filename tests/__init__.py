"""The tests; one file per module, real brokers, builder and model in folders of their own."""

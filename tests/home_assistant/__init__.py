"""edged with a real Home Assistant: ``python -m tests.home_assistant``."""

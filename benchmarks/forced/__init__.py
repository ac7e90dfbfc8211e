"""What forced text saves: JSON answers with it, token by token, and by llama.cpp's grammar.

Rule: the comparing process imports no engine: each runs in its own process.
"""

"""What forced text saves: JSON answers with it, token by token, and by llama.cpp's grammar.

Rule: each engine runs in a process of its own.
"""

"""``edged doctor``: check this device, its broker, model and service for problems.

Rule: a check yields findings and changes nothing; every problem comes with advice.
"""

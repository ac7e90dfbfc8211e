"""``edged doctor``: what of this device, broker, model and service is not as it should be.

Rule: a check yields findings and changes nothing; a finding that is not good says what to do.
"""

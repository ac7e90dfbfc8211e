"""Measurements for developers: other engines, the scheduler in simulation, the cost of the wire.

Rule: not in the wheel. It runs from a checkout with the development environment, and nothing in
``edged`` imports it.
"""

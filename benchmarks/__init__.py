"""Measurements for developers: edged beside other engines, and its scheduler in simulation.

Rule: no part of the wheel. It runs from a checkout with the development environment, and nothing in
``edged`` imports it.
"""

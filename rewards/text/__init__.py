"""Rewards computed from a completion's text: overlap with references, shape, form, answers, and naturalness."""

"""Proxy rewards of experiments on over-optimisation, and training against them."""

"""Specifications of rewards, as the command line and the Python interface take them."""

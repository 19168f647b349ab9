"""Mutation testing: small errors put into the code one at a time, each of which some test must see.

``make mutants`` runs the fixed list of :mod:`scripts.mutants.mutations` and writes a table of what was seen.
"""

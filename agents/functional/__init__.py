"""Estimators and losses: pure functions of arrays."""

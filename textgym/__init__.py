"""Gymnasium for language generation."""

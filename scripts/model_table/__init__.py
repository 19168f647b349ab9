"""Tries every architecture of transformers that can be built small, and writes docs/models.md."""

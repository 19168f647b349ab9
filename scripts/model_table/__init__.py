"""Try every architecture of transformers that can be built small, and write docs/models.md."""

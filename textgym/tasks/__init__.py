"""Tasks: each one file, registered as a Gymnasium id."""

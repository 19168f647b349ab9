"""Run an experiment's jobs, each once, and keep their results."""

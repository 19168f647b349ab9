"""The runner: experiments, their jobs, and the file of their results."""

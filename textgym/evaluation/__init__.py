"""Evaluation: measures of texts and samples as pure functions, and the measuring of a policy."""

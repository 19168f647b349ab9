"""From results to findings: statistics over seeds, and tables."""

"""Scalar feedback in time: its records, credit for tokens, models of it (TAMER), and simulated trainers."""

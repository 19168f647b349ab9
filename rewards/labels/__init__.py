"""Human or synthetic preferences: rankings, pairs, and their files."""

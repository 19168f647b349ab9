"""The loop that collects whole responses and trains on them."""

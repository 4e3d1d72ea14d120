"""Cards: what every method says of itself, and how it is found by name."""

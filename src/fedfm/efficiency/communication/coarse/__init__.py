"""Codes of a few bits a value, and what makes vectors fit for them."""

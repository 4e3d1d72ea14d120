"""Whose message is refused."""

"""Codecs: fewer bits for the same vector."""

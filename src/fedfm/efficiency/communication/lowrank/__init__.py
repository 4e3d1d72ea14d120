"""Codes of matrices."""

"""Secure aggregation and its primitives."""

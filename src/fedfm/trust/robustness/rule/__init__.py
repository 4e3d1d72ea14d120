"""Aggregation that malicious parties cannot move far."""

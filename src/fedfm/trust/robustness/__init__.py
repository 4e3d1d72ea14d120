"""Poisoning, and what withstands it: attacks, robust aggregation, detection of outliers."""

"""Computational efficiency (survey IV.B): what is trained, and where."""

"""Tunings: which parameters of a base network are trained."""

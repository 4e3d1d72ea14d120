"""Trustworthiness: what parties and the server can learn, break or prove (survey section V)."""

"""Parties with models of their own."""

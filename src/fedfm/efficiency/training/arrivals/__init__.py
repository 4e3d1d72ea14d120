"""Asynchronous rounds: contributions of unlike age."""

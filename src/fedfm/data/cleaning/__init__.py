"""Choosing and cleaning columns: from a source's own rows to those that a task reads, with an account of what was lost."""

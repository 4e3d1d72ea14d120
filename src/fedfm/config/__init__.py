"""Configs: a federation as plain data, and as YAML text."""

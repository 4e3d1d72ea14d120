"""Contracts: menus of work and pay that parties choose from."""

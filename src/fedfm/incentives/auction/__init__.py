"""Auctions: who takes part, and what each is promised."""

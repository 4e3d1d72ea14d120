"""What the ledger tells of a run that nobody would see in its scores."""

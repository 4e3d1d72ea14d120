"""A served run in time: who is here, when what arrives, and how it is done again from that."""

"""Incentive mechanisms (section VI of the survey): selection, auctions, contributions and rewards."""

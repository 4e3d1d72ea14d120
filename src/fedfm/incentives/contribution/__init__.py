"""What each party brought."""

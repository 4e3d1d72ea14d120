"""Split learning: a model cut between party and server."""

"""Tasks on a torch module of one's own, with one's own loss and scores."""

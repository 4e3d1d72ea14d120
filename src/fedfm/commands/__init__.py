"""What `fedfm` can be told at a prompt: each command is a short call into the package."""

"""Random federations that `check` passes, for soaks."""

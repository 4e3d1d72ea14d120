"""Data sets and how they are divided among parties. `source` has the types that everything else uses."""

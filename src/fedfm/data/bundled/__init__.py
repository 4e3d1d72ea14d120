"""The small data sets that ship inside the package, each with its licence notice and a card."""

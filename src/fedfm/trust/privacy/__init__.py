"""Privacy: clip and noise, their accountant, and sums that hide their terms (survey section V.B)."""

"""The ledger of a run: typed events, and the file that holds them."""

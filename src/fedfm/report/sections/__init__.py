"""The sections of the page: cards that say one thing each about a run, or about several side by side."""

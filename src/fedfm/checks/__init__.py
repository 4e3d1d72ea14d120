"""What cannot be honoured together is refused before work: rules over the facts that methods declare."""

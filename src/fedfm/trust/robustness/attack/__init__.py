"""What malicious parties do."""

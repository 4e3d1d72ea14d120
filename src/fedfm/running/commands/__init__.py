"""What stands behind a command and is more than one call: checking, sweeps, predictions, exports, the doctor."""

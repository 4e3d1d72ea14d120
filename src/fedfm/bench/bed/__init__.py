"""The test bed: what the measurements are played on."""

"""What a run keeps of itself on disk, and who may write there."""

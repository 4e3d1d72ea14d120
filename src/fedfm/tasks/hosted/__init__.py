"""Trainers that others made (transformers.Trainer, TRL's): their own loop does a party's local work."""

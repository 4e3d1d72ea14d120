"""The course of a run: its stages, and the models that it leaves."""

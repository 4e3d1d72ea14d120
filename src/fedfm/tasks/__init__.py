"""Tasks: a foundation model, a tuning and an objective. `load_tuned(folder)` reads back what a task saved."""

from fedfm.tasks.export import Tuned, load_tuned

__all__ = ["Tuned", "load_tuned"]

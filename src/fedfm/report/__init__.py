"""The report of runs as one self-contained HTML page, and trackers for other tools."""

from __future__ import annotations

from fedfm.report.page import write
from fedfm.report.trackers import Tracker, open_tracker, tensorboard

__all__ = ["Tracker", "open_tracker", "tensorboard", "write"]

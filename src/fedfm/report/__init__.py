"""The report of runs as one self-contained HTML page, and trackers for other tools.

Also the rules by which numbers (`numbers`) and text of strangers (`text`) are shown anywhere, so the package itself
imports nothing: a command that prints one line does not wait for templates.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedfm.report.page import write
    from fedfm.report.trackers import Tracker, open_tracker, tensorboard

__all__ = ["Tracker", "open_tracker", "tensorboard", "write"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(f"{__name__}.{'page' if name == 'write' else 'trackers'}"), name)

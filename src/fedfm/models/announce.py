"""What is going on, on standard error: a spinner on a terminal, one plain line per step elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Say = Callable[[str], None]


@contextlib.contextmanager
def announcing(progress: bool) -> Iterator[Say]:
    """Yield `say(text)`; silent when `progress` is False."""
    if not progress:
        yield lambda text: None
        return
    from rich.console import Console

    console = Console(file=sys.stderr)  # this very stream: a converter may silence sys.stderr meanwhile
    if not console.is_terminal:
        yield lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    with console.status("") as status:
        yield lambda text: status.update(text)

"""How the page draws: charts, markup, style and script; nothing here reads a run."""

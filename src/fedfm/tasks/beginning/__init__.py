"""Where training begins: from an adapter that somebody has, or from the stage before."""

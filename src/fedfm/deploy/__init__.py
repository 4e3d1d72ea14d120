"""Real parties: the same federation across organisations, over links that both ends prove their names on."""

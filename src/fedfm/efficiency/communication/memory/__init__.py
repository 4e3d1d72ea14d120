"""Codecs that remember: what one round left out or learnt helps the next."""

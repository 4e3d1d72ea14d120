"""How many examples a property is tried on."""

from hypothesis import settings

few = settings(max_examples=60, deadline=None)
fewer = settings(max_examples=40, deadline=None)

"""The loop and its rooms: nothing here knows a method's name."""

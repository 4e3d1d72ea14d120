"""Who is paid what."""

"""Protocol cores: bytes in, events out. Nothing here knows of sockets, event loops, time or logging."""

"""The protocol cores, fed bytes: no sockets, no loop, no time."""

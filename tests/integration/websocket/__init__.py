"""WebSocket from outside: a real server, driven by hostile peers that see every byte, and by the clients people use."""

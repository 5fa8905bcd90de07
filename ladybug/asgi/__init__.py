"""The ASGI side of a connection: scope, receive, send. Knows messages and the protocol core, never a socket."""

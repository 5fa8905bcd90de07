"""Requests as raw bytes, with what a server must make of them; the same tables judge parsers and whole servers.

- accepted.py  bytes -> the requests an application must be given
- refused.py   bytes -> the status, and how much of it an application may have seen
- feeding.py   the ways of cutting bytes into the pieces a server receives

Every case names the rule it stands for. Each is fed whole, byte by byte and at random cuts: the outcome must not differ.
"""

"""Suites that judge a real server process through real sockets; support.py starts it and reads every byte it sends."""

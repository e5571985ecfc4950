"""Pieces of measuring that the broker, `portask bench` and the lab share, so that all of them mean the same.

`histogram` counts durations, `schedule` says when to send, `openloop` decides when an open-loop run is void.
Standard library only; nothing here knows of messages or sockets.
"""

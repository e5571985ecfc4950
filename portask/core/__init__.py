"""The broker without I/O: topics, subscriptions, credit, retention, and the turn. Time is an argument, never read.

Start with `broker`: one turn is everything that arrived since the last wake-up.
"""

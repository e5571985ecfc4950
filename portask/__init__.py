"""Portask: a message broker made of measured parts."""

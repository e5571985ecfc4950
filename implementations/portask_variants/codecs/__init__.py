"""Codecs, one file a variant."""

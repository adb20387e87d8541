"""Sequence mixers, one folder each, found by entry point."""

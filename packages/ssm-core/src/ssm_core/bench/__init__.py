"""Timings that check what they time, found by entry point."""

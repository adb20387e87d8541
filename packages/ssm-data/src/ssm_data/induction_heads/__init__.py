"""Induction heads: what stood after the special token when it came first (spec, draw, task)."""

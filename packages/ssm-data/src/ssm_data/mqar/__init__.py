"""Multi-query associative recall: keys and values, then some of the keys again (spec, draw, task)."""

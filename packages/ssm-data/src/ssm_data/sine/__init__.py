"""Sums of sine waves, seen at uniform or perturbed times, to be foretold (spec, draw, task)."""

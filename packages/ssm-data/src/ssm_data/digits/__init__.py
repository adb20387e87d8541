"""Handwritten digits read as 64 numbers: real data that come with scikit-learn (spec, data, task)."""

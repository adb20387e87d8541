"""Selective copying: tokens hidden in noise, to be given back in order (spec, draw, task)."""

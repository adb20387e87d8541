"""Probe `information`: what an element's interval says about the state, and about the output (Proposition 1)."""

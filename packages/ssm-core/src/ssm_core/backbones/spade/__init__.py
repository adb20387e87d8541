"""SPADE: local attention everywhere, and beside it, at the bottom, one state-space model that sees everything."""

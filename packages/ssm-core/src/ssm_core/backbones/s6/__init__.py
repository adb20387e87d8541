"""Mamba: the selective state-space model S6 behind a short convolution, gated."""

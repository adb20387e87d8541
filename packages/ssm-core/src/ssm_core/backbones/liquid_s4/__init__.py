"""Liquid-S4: a diagonal state-space model whose transition depends on its input."""

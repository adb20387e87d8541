"""Mamba-2: the state-space dual, a matrix-valued state a head decayed by a scalar, in chunks."""

"""Mega: a damped moving average inside a gated attention of one head."""

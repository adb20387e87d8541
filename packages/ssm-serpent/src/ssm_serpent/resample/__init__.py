"""Probe `resample`: which elements of a sequence the branches of SeRpEnt merge, for people to look at."""

"""The checks of the suites, by theme."""

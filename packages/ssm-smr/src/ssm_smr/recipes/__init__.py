"""Settings to begin from, and the studies in ``studies``."""

"""Selective resampling on this machine, beside a direct reading of its equations."""

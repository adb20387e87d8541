"""DSS: one diagonal state-space model a channel, all with the same eigenvalues, run as a convolution."""

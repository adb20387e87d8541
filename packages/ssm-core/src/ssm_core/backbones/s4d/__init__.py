"""S4D: one diagonal state-space model a channel, run as a convolution, or as a scan where steps are irregular."""

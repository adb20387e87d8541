"""S4: one state-space model a channel, diagonal plus low rank, run as a convolution."""

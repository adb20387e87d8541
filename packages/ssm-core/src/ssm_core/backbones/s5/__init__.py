"""S5: one multi-input multi-output diagonal state-space model a layer, run by a scan."""

"""The gate on this machine, beside the same in plain torch."""

"""Functions of other packages under their own names, signatures and layouts, on `ssm_core.ops`: drop-in, no build."""

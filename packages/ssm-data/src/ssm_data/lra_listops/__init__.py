"""ListOps of the Long Range Arena: nested lists of operations on digits, from files or an exact generator."""

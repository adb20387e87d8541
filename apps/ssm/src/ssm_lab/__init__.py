"""The command ``ssm``. It knows contracts, not plugins: what it lists, trains and measures is found by entry point."""

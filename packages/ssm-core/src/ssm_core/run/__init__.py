"""A run as data: its configuration, its folder, and loading it back."""

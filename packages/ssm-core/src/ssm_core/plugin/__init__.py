"""The plugin contract: specs, the entry-point registry and configuration. Loads neither torch nor numpy."""

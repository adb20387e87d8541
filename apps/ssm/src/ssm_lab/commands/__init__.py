"""The commands of ``ssm``, one a module: each holds a Typer app that an entry point names."""

"""Time series of the UEA and UCR archives, from their ``.ts`` files (spec, read, times, data, task)."""

"""Retrieval of the Long Range Arena: does one paper cite the other? Two texts, letter by letter."""

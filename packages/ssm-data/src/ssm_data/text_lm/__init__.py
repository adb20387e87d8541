"""text-lm: a language model of any text files, or of Python's own help texts (spec, data, task)."""

"""Time and memory of generating element by element, early in a sequence and late."""

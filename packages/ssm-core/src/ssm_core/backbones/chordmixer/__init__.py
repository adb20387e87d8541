"""ChordMixer: a network on each element, then parts of it moved along the sequence by powers of two."""

"""LRA Image: tell the object in a small grey picture that is read pixel by pixel (spec, readers, task)."""

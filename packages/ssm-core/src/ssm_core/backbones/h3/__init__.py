"""H3: queries, keys and values with two state-space models where attention has its softmax."""

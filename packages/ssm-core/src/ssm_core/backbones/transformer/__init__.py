"""Transformer: softmax attention and a feed-forward network a layer."""

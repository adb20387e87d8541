"""What the gate costs in training: whole steps of a model with it beside those without."""

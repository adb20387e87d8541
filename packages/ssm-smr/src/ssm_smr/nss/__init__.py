"""The theory of non-stable states as numbers: what a perturbed grid does to the state of a linear recurrence."""

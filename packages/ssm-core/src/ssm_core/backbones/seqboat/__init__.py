"""SeqBoat: a moving average everywhere, and gated attention on the elements that a router activates."""

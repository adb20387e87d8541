"""LRU: a linear recurrent unit, a diagonal recurrence trained in discrete time."""

"""How fast each task's batches are read, with workers and without, and how long a training step waits for them."""

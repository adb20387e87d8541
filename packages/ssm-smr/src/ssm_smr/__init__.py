"""State Memory Replay (SMR): recent inputs decide how much of the current one enters the state-space model."""

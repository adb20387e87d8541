"""The pendulum: regress its angle from noisy 24x24 frames at irregular times (spec, simulation, model parts, task)."""

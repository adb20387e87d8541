"""Path-X: Pathfinder at 128 x 128, read as 16,384 pixels (spec, task)."""

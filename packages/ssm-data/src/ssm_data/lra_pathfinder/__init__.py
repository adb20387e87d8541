"""LRA Pathfinder: whether two discs lie on one dashed curve (spec, reader, generator, task; Path-X uses them)."""

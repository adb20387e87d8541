"""Selective resampling of sequences (SeRpEnt, arXiv 2501.11729): learned intervals and exact index maps.

Import from the file that holds the idea; importing this package loads nothing, torch included:

- `ssm_serpent.intervals`: `intervals`, `fixed_point`, `Intervals`, `TICKS` (eqs. 9 and 13);
- `ssm_serpent.index`: `resample_index`, `max_points`, `Index` (eqs. 11, 12a and 15a);
- `ssm_serpent.distances`: `distances` (the d of eq. 12b, and the only road of gradient to the intervals);
- `ssm_serpent.ops`: `encode`, `spread` (eqs. 12a, 12b and 15a);
- `ssm_serpent.build`, `ssm_serpent.layer`: the add-on round a mixer (eqs. 14 and 15), and its knobs in `spec`;
- `ssm_serpent.reference`: `reference_index`, the same in plain Python: the definition;
- `ssm_serpent.testing`: `from_ticks`, `windows_of`, `assert_same`, for tests of what is built on this.
"""

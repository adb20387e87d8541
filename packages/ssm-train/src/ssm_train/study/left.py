"""How long a study will take, from the runs that are done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from ssm_train.study.folder import StudyFolder
from ssm_train.study.plan import Job


def expected(
    folder: StudyFolder, jobs: Iterable[Job], left: Sequence[Job], elapsed: Mapping[str, float] | None = None
) -> float | None:
    """Return the seconds of work left, were it done one job after the other; None before the first one is done.

    A job is expected to take as long as those with the same backbone and add-ons have taken, or as the mean of all.

    Args:
        folder: The study's folder.
        jobs: All jobs.
        left: Those that are not done.
        elapsed: Key of a running job -> seconds that it has run.
    """
    took = {job.key: seconds for job in jobs if (seconds := folder.seconds(job)) is not None}
    if not took:
        return None
    alike: dict[str, list[float]] = {}
    for job in jobs:
        if job.key in took:
            alike.setdefault(job.config.label(), []).append(took[job.key])
    return sum(
        max(0.0, mean(alike.get(job.config.label(), list(took.values()))) - (elapsed or {}).get(job.key, 0.0))
        for job in left
    )


def duration(seconds: float) -> str:
    """Return ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

"""Metrics, statistics over seeds, comparison and pictures. Importing this loads no torch; using its names does."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssm_eval.compare import Comparison, compare_runs, seeds_line
    from ssm_eval.evaluation import Evaluation, evaluate, evaluate_run
    from ssm_eval.metrics import make_metrics
    from ssm_eval.plots import learning_curve, predictions
    from ssm_eval.prediction import Predictions, predict_run
    from ssm_eval.published import nearest_published, published_for, published_rows
    from ssm_eval.report import html_report
    from ssm_eval.stats import Summary, summarise

__all__ = [
    "Comparison",
    "Evaluation",
    "Predictions",
    "Summary",
    "compare_runs",
    "evaluate",
    "evaluate_run",
    "html_report",
    "learning_curve",
    "make_metrics",
    "nearest_published",
    "predict_run",
    "predictions",
    "published_for",
    "published_rows",
    "seeds_line",
    "summarise",
]

_HOMES = {
    "Comparison": "compare",
    "Evaluation": "evaluation",
    "Predictions": "prediction",
    "Summary": "stats",
    "compare_runs": "compare",
    "evaluate": "evaluation",
    "evaluate_run": "evaluation",
    "html_report": "report",
    "learning_curve": "plots",
    "make_metrics": "metrics",
    "nearest_published": "published",
    "predict_run": "prediction",
    "predictions": "plots",
    "published_for": "published",
    "published_rows": "published",
    "seeds_line": "compare",
    "summarise": "stats",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"ssm_eval.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ssm_eval' has no attribute '{name}'")

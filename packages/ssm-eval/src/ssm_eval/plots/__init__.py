"""The two pictures of a run. They use matplotlib's object interface and its Agg canvas: no window, no global state."""

from ssm_eval.plots.bands import predictions
from ssm_eval.plots.curve import learning_curve

__all__ = ["learning_curve", "predictions"]

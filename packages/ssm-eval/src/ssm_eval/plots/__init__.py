"""The pictures of a run, and those of what a probe found.

They use matplotlib's object interface and its Agg canvas: no window, no global state.
"""

from ssm_eval.plots.bands import predictions
from ssm_eval.plots.charts import draw_charts
from ssm_eval.plots.curve import learning_curve

__all__ = ["draw_charts", "learning_curve", "predictions"]

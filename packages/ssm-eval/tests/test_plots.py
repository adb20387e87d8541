from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from ssm_core.plugin.errors import UserError
from ssm_core.protocols import BandPlot
from ssm_core.run.folder import write_json
from ssm_eval.plots import learning_curve, predictions
from ssm_eval.plots.curve import History


def size(path: Path) -> tuple[int, int]:
    """Read width and height from a PNG's header; a picture of one colour compresses to next to nothing."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) > 10_000
    return struct.unpack(">II", data[16:24])


def panel(n: int = 20, **more) -> BandPlot:
    x = np.sort(np.random.default_rng(0).choice(100, n, replace=False))
    base = {
        "title": "row 0",
        "x": x,
        "truth": np.sin(x / 9),
        "mean": np.sin(x / 9 + 0.1),
        "std": np.full(n, 0.1),
    }
    return BandPlot(**{**base, **more})


def test_learning_curve_is_drawn(make_run):
    run = make_run()
    path = learning_curve(run)
    assert path == run.path / "plots" / "learning_curve.png"
    assert size(path) == (1500, 1035)
    assert learning_curve(str(run.path)) == path


def test_history_says_what_happened(make_run):
    history = History.read(make_run())
    assert (history.title, history.steps_per_epoch) == ("toynet on toytask, seed 0", 4)
    assert (history.at_best("validation"), history.at_best("test")) == ((2.0, 0.2), (2.0, 0.25))
    assert history.published.value == 0.2
    epochs, means = history.epoch_means()
    assert epochs == pytest.approx([2.5 / 4, 6.5 / 4, 10.5 / 4])
    assert means[0] == pytest.approx(5 * (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_steps_of_an_epoch_are_those_noted_or_where_the_second_begins(make_run):
    run = make_run()
    early = {"step": 2, "epoch": 0, "split": "validation", "name": "mse", "value": 0.8, "wall": 1.0}
    lines = run.metrics_file.read_text()
    run.metrics_file.write_text(json.dumps(early) + "\n" + lines)
    history = History.read(run)
    assert (history.steps_per_epoch, history.at_best("validation")) == (4, (2.0, 0.2))
    write_json(run.path / "env.json", {"made": {"steps_per_epoch": 8}})
    assert History.read(run).at_best("validation") == (1.0, 0.2)


def test_learning_curve_without_validation_has_one_panel(make_run):
    run = make_run()
    kept = [line for line in run.metrics_file.read_text().splitlines() if '"train"' in line]
    run.metrics_file.write_text("\n".join(kept) + "\n")
    (run.path / "best.json").unlink()
    assert size(learning_curve(run)) == (1500, 540)


@pytest.mark.parametrize("keep", [1, 9])
def test_learning_curve_of_a_run_just_begun(make_run, keep):
    run = make_run()
    lines = run.metrics_file.read_text().splitlines()[:keep]
    run.metrics_file.write_text("\n".join(lines) + "\n")
    for name in ("best.json", "latest.json"):
        (run.path / name).unlink()
    assert size(learning_curve(run)) == (1500, 540)


def test_learning_curve_bears_infinite_losses(make_run):
    run = make_run(validation=(float("inf"), 0.2, 0.3))
    assert size(learning_curve(run)) == (1500, 1035)


def test_learning_curve_needs_metrics(make_run):
    run = make_run()
    run.metrics_file.unlink()
    with pytest.raises(UserError, match="recorded no metrics"):
        learning_curve(run)


@pytest.mark.parametrize(("panels", "pixels"), [(1, (780, 480)), (2, (1560, 480)), (3, (1560, 885))])
def test_predictions_are_drawn(tmp_path, panels, pixels):
    path = tmp_path / "plots" / "predictions.png"
    assert predictions([panel()] * panels, path) == path
    assert size(path) == pixels


def test_predictions_without_a_band(tmp_path):
    assert size(predictions([panel(std=None)], tmp_path / "p.png")) == (780, 480)


def test_predictions_take_points_in_any_order(tmp_path):
    one = panel()
    turned = {name: getattr(one, name)[::-1] for name in ("x", "truth", "mean", "std")}
    a = predictions([one], tmp_path / "a.png").read_bytes()
    assert predictions([panel(**turned)], tmp_path / "b.png").read_bytes() == a


def test_predictions_refuse_nothing_and_nonsense(tmp_path):
    with pytest.raises(UserError, match="no panels"):
        predictions([], tmp_path / "p.png")
    with pytest.raises(UserError, match="'row 0' has arrays of different lengths"):
        predictions([panel(mean=[1.0])], tmp_path / "p.png")


def test_drawing_leaves_no_global_state(make_run, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    learning_curve(make_run())
    predictions([panel()], tmp_path / "p.png")
    assert dict(matplotlib.rcParams) == before

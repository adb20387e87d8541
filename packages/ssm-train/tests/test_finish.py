"""The end of a run: pictures that fail, metrics that are no number."""

from __future__ import annotations

import pytest
from toy_runs import Toy, module, settings

from ssm_core.run.folder import RunFolder
from ssm_train import fit


def test_a_picture_that_fails_fails_no_run(tmp_path, capfd):
    seen = []

    class Drawing(Toy):
        def plots(self, output, batch):
            (run,) = tmp_path.glob("own-task/*")
            seen.append(RunFolder(run).status()["state"])
            raise RuntimeError("no such colour")

    run = fit(settings(epochs=1), Drawing(), module(), out=tmp_path)
    assert seen == ["finished"]
    assert RunFolder(run).status()["state"] == "finished"
    assert "warning: a picture could not be drawn: RuntimeError: no such colour" in capfd.readouterr().err
    assert "in plots" in (run / "log.txt").read_text()


@pytest.mark.parametrize("sick", [True, False])
def test_a_selecting_metric_that_is_no_number_is_warned_of(tmp_path, sick):
    class Sick(Toy):
        def predictions(self, output, batch):
            factor = float("nan") if sick else 1.0
            return {name: factor * value for name, value in super().predictions(output, batch).items()}

    run = fit(settings(epochs=2), Sick(), module(), out=tmp_path, quiet=True)
    log = (run / "log.txt").read_text()
    assert log.count("warning: mse is not a number, and selects no checkpoint") == 2 * sick
    assert ("(best so far)" in log) == (not sick)
    assert ("at the first (no validation mse was a number) epoch 1" in log) == sick
    assert ("at the best validation epoch" in log) == (not sick)

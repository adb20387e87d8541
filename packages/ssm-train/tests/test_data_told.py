"""What a run folder says of its data, and what a resume does when the data is other data."""

from __future__ import annotations

import json

import pytest
from toy_runs import Rows, Toy, module, settings

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import RunFolder
from ssm_train import fit, resume, setup

LENGTHEN = {"epochs": 2}


class Told(Rows):
    """Rows that say where they come from."""

    def __init__(self, n: int, seed: int, provenance: str, fingerprint: str | None) -> None:
        super().__init__(n, seed)
        self.provenance = provenance
        if fingerprint is not None:
            self.fingerprint = fingerprint


class ToldToy(Toy):
    """The toy, whose training and test splits say where they come from."""

    def __init__(self, place: str = "/there", fingerprint: str = "abc") -> None:
        super().__init__()
        self.data["train"] = Told(40, 0, f"files in {place}", fingerprint)
        self.data["test"] = Told(10, 2, f"drawn in {place}", None)


@pytest.fixture
def run(tmp_path):
    return fit(settings(epochs=1), ToldToy(), module(), out=tmp_path, quiet=True)


def test_a_run_keeps_what_its_splits_say_of_themselves(run):
    held = json.loads((run / "data.json").read_text())
    assert held == {
        "train": {"provenance": "files in /there", "fingerprint": "abc"},
        "validation": None,
        "test": {"provenance": "drawn in /there", "fingerprint": None},
    }
    assert RunFolder(run).data() == held


def test_a_resume_goes_on_with_the_same_data_elsewhere_and_refuses_other_data(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="train split is not the data") as told:
        resume(run, LENGTHEN, task=ToldToy("/here", "xyz"), model=module(), quiet=True)
    for words in (
        "files in /there",
        "files in /here",
        f"--config {run}/config.json",
        f"delete {run}/data.json",
    ):
        assert words in str(told.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    resume(run, LENGTHEN, task=ToldToy("/here"), model=module(), quiet=True)
    assert RunFolder(run).status()["step"] == 20
    assert RunFolder(run).data()["train"]["provenance"] == "files in /there"


def test_without_the_file_nothing_is_compared(run):
    (run / "data.json").unlink()
    resume(run, LENGTHEN, task=ToldToy("/here", "xyz"), model=module(), quiet=True)
    assert RunFolder(run).status()["step"] == 20


OTHER = {"provenance": "", "fingerprint": "other"}


@pytest.mark.parametrize(
    "held", [None, {}, {"train": None}, {"test": OTHER}, {"validation": OTHER}, {"more": OTHER}]
)
def test_what_cannot_be_compared_is_not_refused(tmp_path, held):
    if held is not None:  # None: as of a run of an older version
        RunFolder(tmp_path).write_data(held)
    setup.check_data(RunFolder(tmp_path), ToldToy())
    RunFolder(tmp_path).write_data({"train": OTHER})
    with pytest.raises(UserError, match="is not the data"):
        setup.check_data(RunFolder(tmp_path), ToldToy())

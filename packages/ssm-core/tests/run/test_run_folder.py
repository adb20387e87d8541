from __future__ import annotations

import errno
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ssm_core.plugin.errors import UserError
from ssm_core.run.config import RunConfig
from ssm_core.run.folder import RunFolder, commit_folder, read_json, write_bytes, write_json

CONFIG = RunConfig.from_tree({"backbone": {"name": "s5", "state_size": 8}, "seed": 5})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", CONFIG)


def test_a_new_folder_holds_its_configuration(folder: RunFolder, tmp_path: Path) -> None:
    assert folder.path.parent == tmp_path / "runs" / "own-task"
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-s5-{CONFIG.fingerprint()}", folder.path.name)
    assert RunFolder.open(folder.path).config() == CONFIG
    assert folder.checkpoints.is_dir()
    assert folder.status() == {}
    assert list(folder.metrics()) == []


def test_runs_begun_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    paths = {RunFolder.create(tmp_path, CONFIG).path for _ in range(4)}
    assert len(paths) == 4


def test_a_root_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make the run folder .*\n.*--out"):
        RunFolder.create(tmp_path / "file", CONFIG)


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder: it has no config\.json"):
        RunFolder.open(tmp_path)


def test_status_has_a_heartbeat(folder: RunFolder) -> None:
    folder.write_status("running", step=3)
    status = folder.status()
    assert (status["state"], status["step"]) == ("running", 3)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", status["heartbeat"])


def test_checkpoints_are_found_by_their_pointers(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="has no checkpoint"):
        folder.checkpoint()
    write_json(folder.path / "latest.json", {"step": 2, "path": "checkpoints/step-2"})
    assert folder.checkpoint() == folder.checkpoint("latest") == folder.path / "checkpoints/step-2"
    write_json(folder.path / "best.json", {"step": 1, "path": "checkpoints/step-1"})
    assert folder.checkpoint() == folder.path / "checkpoints/step-1"
    assert folder.checkpoint("latest") == folder.path / "checkpoints/step-2"


def row(step: int, value: float, name: str = "loss") -> dict[str, Any]:
    return {"step": step, "epoch": 0, "split": "train", "name": name, "value": value, "wall": 0.0}


def test_metrics_survive_torn_lines_and_keep_the_last_of_a_step(folder: RunFolder) -> None:
    rows = [row(1, 1.0), row(2, 2.0), row(3, 3.0), row(2, 2.5), row(3, 3.5, "mse")]
    text = "".join(json.dumps(each) + "\n" for each in rows)
    torn = json.dumps(row(4, 4.0))[:-9]
    folder.metrics_file.write_text(text + '{"step": 9}\n[1]\n\n' + torn)
    assert [(r["step"], r["name"], r["value"]) for r in folder.metrics()] == [
        (1, "loss", 1.0),
        (2, "loss", 2.5),
        (3, "loss", 3.0),
        (3, "mse", 3.5),
    ]


def test_rows_above_a_resume_are_void(folder: RunFolder) -> None:
    resumed = {**row(1, 1.0, "resumed"), "split": "run"}
    rows = [row(1, 1.0), row(2, 2.0), row(3, 3.0), resumed, row(2, 2.5)]
    folder.metrics_file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert [(r["step"], r["name"], r["value"]) for r in folder.metrics()] == [
        (1, "loss", 1.0),
        (2, "loss", 2.5),
    ]


def test_metrics_survive_a_line_torn_inside_a_character(folder: RunFolder) -> None:
    whole = (json.dumps(row(1, 1.0)) + "\n").encode()
    folder.metrics_file.write_bytes(whole + '{"step": 2, "name": "é'.encode()[:-1])
    assert [r["step"] for r in folder.metrics()] == [1]


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    inf, nan = float("inf"), float("nan")
    write_json(tmp_path / "a.json", {"value": inf, "more": [1.5, nan, (-inf,)], "deep": {"x": nan}})
    assert read_json(tmp_path / "a.json") == {"value": None, "more": [1.5, None, [None]], "deep": {"x": None}}


def test_a_null_among_the_metrics_is_not_a_number(folder: RunFolder) -> None:
    folder.metrics_file.write_text(json.dumps({**row(1, 0.0), "value": None}) + "\n")
    (found,) = folder.metrics()
    assert math.isnan(found["value"])


@pytest.mark.parametrize("text", ["[]", "null", "3", '"a"'])
def test_a_file_without_a_mapping_is_told(folder: RunFolder, text: str) -> None:
    (folder.path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json is damaged: it holds \w+ where a mapping belongs"):
        folder.config()


@pytest.mark.parametrize(("text", "lacks"), [("{}", "no step and no path"), ('{"step": 1}', "no path")])
def test_a_pointer_to_nothing_is_told(folder: RunFolder, text: str, lacks: str) -> None:
    (folder.path / "best.json").write_text(text)
    with pytest.raises(UserError, match=rf"best\.json is damaged: it has {lacks}"):
        folder.checkpoint()


@pytest.mark.parametrize("text", ["", "[]", '{"state": '])
def test_a_damaged_status_counts_as_none(folder: RunFolder, text: str) -> None:
    (folder.path / "status.json").write_text(text)
    (folder.path / "env.json").write_text(text)
    assert (folder.status(), folder.env()) == ({}, {})


def test_damaged_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*absent\.json"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"half\.json is damaged"):
        read_json(tmp_path / "half.json")
    (tmp_path / "odd.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(UserError, match=r"odd\.json is damaged"):
        read_json(tmp_path / "odd.json")


def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "status.json"
    write_json(file, {"step": 1})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*status\.json: No space left.*\n  free some space$"):
        write_json(file, {"step": 2})
    assert read_json(file) == {"step": 1}
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_cannot_be_written_is_not_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def shut(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", shut)
    with pytest.raises(UserError, match=r"cannot write .*\n  make its folder writable$"):
        write_json(tmp_path / "a.json", {})


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "status.json"
    write_json(file, {"step": 1})

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    for victim, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(victim, name, killed)
            with pytest.raises(Killed):
                write_json(file, {"step": 2})
        assert read_json(file) == {"step": 1}
    write_json(file, {"step": 3})
    assert read_json(file) == {"step": 3}


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flush"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append("rename"), replace(self, to))[1])
    write_bytes(tmp_path / "a", b"x")
    assert order == ["flush", "rename", "flush"]


def test_a_folder_is_committed_whole_and_replaces_an_older_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        temporary = tmp_path / ".step-1.tmp"
        temporary.mkdir()
        (temporary / "model").write_text(text)
        commit_folder(temporary, tmp_path / "step-1")
        assert not temporary.exists()
        assert (tmp_path / "step-1" / "model").read_text() == text

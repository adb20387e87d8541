from __future__ import annotations

from html.parser import HTMLParser

import pytest

from ssm_core.plugin.errors import UserError
from ssm_core.run.folder import write_json
from ssm_eval import html_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What stands on a page; asserts that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.images: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "img":
            self.images.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1][-1] += data


def test_a_page_has_comparison_results_and_pictures(make_run):
    runs = [make_run(seed=seed, test=value) for seed, value in enumerate([0.25, 0.31])]
    (runs[0].path / "eval").mkdir(exist_ok=True)
    stored = {"split": "test", "step": 4, "overrides": {"task": {"scale": 2.0}}}
    write_json(runs[0].path / "eval" / "more.json", stored | {"metrics": {"mse": 0.625, "nll": float("nan")}})
    page = Page(html_report(runs))
    assert page.rows[1][:2] == ["toynet", "0, 1"]
    assert "0.28" in page.rows[1]
    assert ["test", "4", "task.scale=2.0", "mse", "0.625"] in page.rows
    assert ["test", "4", "task.scale=2.0", "nll", "not finite"] in page.rows
    assert any(row[0] == "test" and row[-1] == "0.31" for row in page.rows)
    assert len(page.images) == 2, "a learning curve each"
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in page.images)
    assert "http" not in html_report(runs).replace(page.words, "")


def test_what_a_run_says_is_not_taken_for_html(make_run):
    run = make_run()
    write_json(run.path / "env.json", {"host": "<script>alert(1)</script>"})
    text = html_report([run])
    assert "<script>" not in text
    assert "alert(1)" in Page(text).words


def test_runs_of_several_tasks_and_damaged_files_are_shown(make_run):
    one, other = make_run(), make_run()
    tree = other.config_tree()
    tree["task"]["name"] = "elsewhere/unknown"
    write_json(other.path / "config.json", tree)
    (one.path / "env.json").write_text("{")
    (one.path / "eval").mkdir(exist_ok=True)
    (one.path / "eval" / "torn.json").write_text('{"split": "te')
    page = Page(html_report([one, other, one]))
    assert page.words.count("learning") == 0
    assert "2 runs: " in page.words
    assert "not compared: " in page.words
    assert other.path.name in page.words


def test_no_runs_and_no_run_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no runs to report"):
        html_report([])
    with pytest.raises(UserError, match="not a run folder"):
        html_report([tmp_path])

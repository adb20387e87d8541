"""What becomes of what a probe found: printed, drawn, kept."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

import ssm_core
from ssm_core.plugin import registry
from ssm_core.plugin.config import config
from ssm_core.plugin.spec import ProbeSpec
from ssm_core.protocols import Chart, Curve, Result
from ssm_lab import console

CHART = Chart(title="error", curves=[Curve(label="plain", x=[0, 1, 2], y=[1.0, None, 3.0])])


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@config
class Knobs:
    """Knobs.

    Attributes:
        length: A length.
    """

    length: int = 8


@pytest.fixture
def found(monkeypatch, stand_in):
    """Register a probe ``it`` that finds what it is given; any run can be opened."""
    spec = ProbeSpec(api=1, name="it", summary="", config=Knobs, build="own:it")
    entry = SimpleNamespace(name="it", long_name="own/it", dist="own", version="1")
    task = SimpleNamespace(prepare=lambda: None, splits=lambda: {"test": [1, 2]})
    stand_in(ssm_core, "load", lambda run: (SimpleNamespace(task=task), None))

    def register(**fields):
        monkeypatch.setattr(registry, "describe", lambda kind, name: (entry, spec))
        result = Result(**fields)
        monkeypatch.setattr(registry, "builder", lambda kind, name: (spec, lambda *_: result))

    return register


def test_a_run_gets_the_picture_and_the_files(ssm, found, tmp_path):
    found(text="all is well", charts=[CHART], files={"page.html": "<p>ä</p>"})
    done = ssm("probe", "it", tmp_path)
    assert done.code == 0
    assert done.out.strip() == "all is well"
    picture = tmp_path / "plots" / "probe-it.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "plots" / "page.html").read_text(encoding="utf-8") == "<p>ä</p>"
    for path in (picture, tmp_path / "plots" / "page.html"):
        assert str(path) in done.err


def test_without_a_run_it_is_drawn_where_one_says(ssm, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found(charts=[CHART], files={"page.html": "x"})
    done = ssm("probe", "it")
    assert (done.code, done.out) == (0, "")
    assert "not written: a picture, page.html (give --picture FILE)" in done.err
    assert not list(tmp_path.iterdir())
    assert ssm("probe", "it", "--picture", "new/it.png").code == 0
    assert names(tmp_path / "new") == ["it.png", "page.html"]


def test_the_option_wins_over_the_run(ssm, found, tmp_path):
    found(charts=[CHART])
    assert ssm("probe", "it", tmp_path / "run", "--picture", tmp_path / "it.png").code == 0
    assert names(tmp_path) == ["it.png"]


def test_json_holds_figures_rows_and_charts_but_no_files(ssm, found):
    found(figures={"rho": 0.5}, rows=[{"layer": 0}], charts=[CHART], files={"page.html": "x"})
    out = ssm("probe", "it", "--json").json()
    assert out.keys() == {"text", "figures", "rows", "charts"}
    assert out["figures"] == {"rho": 0.5}
    assert out["charts"][0]["curves"][0]["y"] == [1.0, None, 3.0]


def test_nothing_to_draw_is_not_mentioned(ssm, found, tmp_path):
    found(figures={"rho": 0.5})
    done = ssm("probe", "it", tmp_path, "--json")
    assert done.json() == {"text": "", "figures": {"rho": 0.5}, "rows": []}
    assert done.err == ""
    assert not list(tmp_path.iterdir())


def test_a_bench_draws_where_it_is_told(ssm, found, tmp_path):
    found(charts=[CHART])
    assert "not written: a picture (give --picture FILE)" in ssm("bench", "it").err
    assert ssm("bench", "it", "--picture", tmp_path / "it.png").code == 0
    assert (tmp_path / "it.png").read_bytes()[:4] == b"\x89PNG"
    done = ssm("bench", "it", "--picture", tmp_path / "it.pdf")
    assert done.code == 2
    assert "is not called one" in done.err


def test_what_cannot_be_written_is_said(ssm, found, tmp_path):
    found(charts=[CHART], files={"page.html": "x"})
    done = ssm("probe", "it", "--picture", tmp_path / "it.pdf")
    assert done.code == 2
    assert "is not called one" in done.err
    (tmp_path / "file").write_text("")
    done = ssm("probe", "it", "--picture", tmp_path / "file" / "it.png")
    assert done.code == 2
    assert "cannot write" in done.err
    found(files={"../page.html": "x"})
    done = ssm("probe", "it", tmp_path)
    assert done.code == 2
    assert "'../page.html', which is not a plain name" in done.err


def test_what_a_bench_says_meanwhile_goes_to_standard_error(capsys):
    logger = logging.getLogger("toy.bench.part")
    with console.progress_of("toy.bench"):
        logger.info("timed one")
        logger.debug("a detail")
    logger.info("after the block")
    out, err = capsys.readouterr()
    assert not out
    assert err.split(maxsplit=2)[1:] == ["s", "timed one\n"]

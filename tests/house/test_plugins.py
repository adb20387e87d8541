from __future__ import annotations

import importlib
import re
from importlib.metadata import EntryPoint, distribution

import pytest

from ssm_core.plugin.config import knobs
from ssm_core.plugin.registry import FIRST_PARTY, KINDS
from ssm_core.plugin.spec import API, Spec
from ssm_core.run.config import SECTIONS
from ssm_core.run.recipes import recipes
from workspace import ROOT, members

KIND_OF = {group: kind for kind, group in KINDS.items()}
POINTS = [
    (KIND_OF[group], name, value) for member in members() for group, name, value in member.entry_points()
]
SPECS = [point for point in POINTS if point[0] not in ("command", "recipe")]
OWN_DATA = {"irregular-csv", "text-lm"}
COMMANDS = [point for point in POINTS if point[0] == "command"]


def load(kind: str, name: str, value: str):
    return EntryPoint(name, value, KINDS[kind]).load()


def named(points):
    return [pytest.param(*point, id=f"{point[0]}-{point[1]}") for point in points]


@pytest.mark.parametrize("member", members(), ids=lambda member: member.name)
def test_installed_entry_points_are_the_declared_ones(member):
    installed = distribution(member.name).entry_points
    ours = {(point.group, point.name, point.value) for point in installed if point.group in KIND_OF}
    assert ours == set(member.entry_points()), "the environment is stale: uv sync --all-packages"


@pytest.mark.parametrize(("kind", "name", "value"), named(POINTS))
def test_every_entry_point_resolves(kind, name, value):
    assert load(kind, name, value) is not None


@pytest.mark.parametrize(("kind", "name", "value"), named(SPECS))
def test_every_spec_says_what_it_is(kind, name, value):
    spec = load(kind, name, value)
    assert isinstance(spec, Spec)
    assert (spec.api, spec.name) == (API, name)
    assert spec.summary
    assert spec.summary[-1] != "."
    module, _, attribute = spec.build.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize(
    ("kind", "name", "value"), named(point for point in SPECS if point[0] in ("backbone", "addon", "task"))
)
def test_every_model_part_cites_its_source(kind, name, value):
    if name in OWN_DATA:
        pytest.skip("reads the user's own data")
    paper = load(kind, name, value).paper
    assert paper is not None
    assert paper.title
    assert paper.bibtex.startswith("@")


@pytest.mark.parametrize(
    "config",
    [pytest.param(load(*point).config, id=f"{point[0]}-{point[1]}") for point in SPECS]
    + [pytest.param(config, id=section) for section, config in SECTIONS.items()],
)
def test_every_knob_is_documented_and_has_a_default(config):
    rows = knobs(config)
    assert [row["name"] for row in rows if not row["doc"]] == []
    assert [row["name"] for row in rows if row["required"]] == []


@pytest.mark.parametrize(("kind", "name", "value"), named(SPECS))
def test_every_plugin_has_a_page_of_reference(kind, name, value):
    page = ROOT / "docs" / "reference" / KINDS[kind].removeprefix("ssm.") / f"{name}.md"
    assert page.is_file()
    assert f"```{{knobs}} {kind} {name}" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "name", "value"), named(point for point in SPECS if point[0] in ("backbone", "addon", "task"))
)
def test_the_readme_names_every_model_part(kind, name, value):
    assert f"`{name}`" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "name", "value"), named(COMMANDS))
def test_every_command_has_help(kind, name, value):
    app = load(kind, name, value)
    assert app.info.help or any(command.callback.__doc__ for command in app.registered_commands)


def test_the_page_of_commands_has_them_all_and_no_other():
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^`ssm (\w+)", page, flags=re.MULTILINE)) == {name for _, name, _ in COMMANDS}


def test_every_recipe_has_a_summary():
    shipped = recipes()
    assert shipped
    assert [recipe.name for recipe in shipped if not recipe.summary] == []


def test_it_is_known_what_to_install_for_every_model_part():
    kinds = {KINDS[kind] for kind in ("backbone", "addon", "task")}
    parts = {name: m.name for m in members() for group, name, _ in m.entry_points() if group in kinds}
    assert parts == FIRST_PARTY


@pytest.mark.parametrize(("kind", "name", "value"), named(point for point in SPECS if point[0] == "backbone"))
def test_the_readme_says_what_a_backbone_can(kind, name, value):
    can = load(kind, name, value).capabilities
    ways = "only" if not can.causal else "yes" if can.bidirectional else ""
    cells = [ways, *("yes" if able else "" for able in (can.step, can.dt))]
    rows = re.findall(rf"^\| `{name}` \|.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [[cell.strip() for cell in row.split("|")[3:6]] for row in rows] == [cells]

from __future__ import annotations

import re

import pytest

from workspace import ROOT, members, read_toml

VERSION = read_toml(ROOT / "pyproject.toml")["project"]["version"]


def test_all_packages_have_one_version():
    assert {member.name: member.version for member in members()} == {
        member.name: VERSION for member in members()
    }


def test_changelog_has_an_entry_for_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    assert entries[0].split()[0] == VERSION, "the newest entry comes first"
    assert len(re.findall(r"^- ", entries[0], flags=re.MULTILINE)) >= 1, "an entry says something"


def test_citation_has_the_version():
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("member", members(), ids=lambda member: member.name)
def test_siblings_are_bounded_to_this_minor_version(member):
    major, minor, *_ = map(int, VERSION.split("."))
    names = "|".join(each.name for each in members())
    ours = [line for line in member.project["dependencies"] if re.match(rf"({names})\b", line)]
    assert [line for line in ours if not line.endswith(f">={major}.{minor},<{major}.{minor + 1}")] == []


@pytest.mark.parametrize("member", members(), ids=lambda member: member.name)
def test_a_package_presents_itself(member):
    assert member.project["license"] == "Apache-2.0"
    assert member.project["description"]
    lines = (member.folder / member.project["readme"]).read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"# {member.name}"
    assert len(lines) > 3, "says what it is, and how it is used"
    assert (member.folder / "src" / member.module / "py.typed").is_file()

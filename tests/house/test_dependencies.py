from __future__ import annotations

import re
import subprocess

import pytest

import lock
from workspace import ROOT, members, texts

# A letter in brackets, so that this file does not find itself.
REGISTRIES = re.compile(
    r"""py[p]i\.org | python[h]osted\.org | npm[j]s\.(com|org) | registry\s=\s"[h]ttp | https?://[^\s"]+/[s]imple([/"\s]|$)""",
    re.MULTILINE | re.VERBOSE,
)


@pytest.mark.parametrize("member", members(), ids=lambda member: member.name)
def test_each_package_declares_what_it_imports(check, member):
    check("deptry", "src", "--no-ansi", cwd=member.folder)


def test_requirements_lock_is_what_the_resolution_gives():
    assert lock.FILE.read_text(encoding="utf-8") == lock.export(), "stale: just lock"


def test_every_locked_version_has_hashes():
    entries = lock.FILE.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    pinned = [line for line in entries if line and not line.startswith("#")]
    assert pinned
    assert [line for line in pinned if "==" not in line or "--hash=sha256:" not in line] == []


def test_no_file_names_a_package_registry():
    named = [name for name, text in texts() if REGISTRIES.search(text)]
    assert named == []


@pytest.mark.parametrize("text", ['source = {{ {} = "http://x" }}', "https://mirror.example/{}/"])
def test_a_registry_would_be_seen(text):
    assert any(REGISTRIES.search(text.format(word)) for word in ("registry", "simple"))
    assert not REGISTRIES.search(text.format("other"))


def test_uv_lock_is_not_tracked():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in listing.splitlines() if name.endswith("uv.lock")] == []
    assert "uv.lock" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()

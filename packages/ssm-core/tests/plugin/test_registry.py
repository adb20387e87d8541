from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from ssm_core.plugin import registry
from ssm_core.plugin.errors import PluginError

SPEC = """
from ssm_core.plugin.config import config
from ssm_core.plugin.spec import BackboneSpec

@config
class Knobs:
    '''Knobs.

    Attributes:
        size: How big.
    '''
    size: int = 1

SPEC = BackboneSpec(api={api}, name="{name}", summary="s", config=Knobs, build="{build}")
"""


def source(name: str, api: int = 1, build: str = "") -> str:
    return SPEC.format(name=name, api=api, build=build or "fake_layer:build")


def names(kind: str = "backbone") -> set[str]:
    return {entry.long_name for entry in registry.found(kind)}


def test_a_distribution_is_found_described_and_built(site) -> None:
    modules = {"fake_spec": source("mine"), "fake_layer": "def build(config): return config.size"}
    site.install("Some_Dist", {"ssm.backbones": {"mine": "fake_spec:SPEC"}}, modules, version="3.1")
    assert {"some-dist/mine", "ssm-core/s5"} <= names()
    (entry,) = (e for e in registry.found("backbone") if e.name == "mine")
    assert (entry.version, entry.summary) == ("3.1", "all about Some_Dist")
    for name in ("mine", "some-dist/mine", "Some_Dist/mine"):
        described, spec = registry.describe("backbone", name)
        assert (described, spec.name) == (entry, "mine")
    spec, build = registry.builder("backbone", "mine")
    assert build(registry.configure("backbone", "mine", {"size": 4})) == 4


def test_finding_imports_nothing(site) -> None:
    site.install("bad", {"ssm.backbones": {"bad": "fake_absent:SPEC"}}, {"fake_bad": "raise SystemExit"})
    site.install("worse", {"ssm.backbones": {"worse": "fake_bad:SPEC"}})
    assert {"bad/bad", "worse/worse"} <= names()


def test_an_unknown_name_gets_a_suggestion(site) -> None:
    with pytest.raises(PluginError, match=r"there is no backbone 's55'\n.*did you mean 's5'\?"):
        registry.find("backbone", "s55")


def test_an_absent_first_party_plugin_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, fresh_registry: Callable[[], None]
) -> None:
    monkeypatch.setenv("SSM_PLUGINS", "ssm-core")
    fresh_registry()
    with pytest.raises(PluginError, match="uv pip install ssm-smr"):
        registry.find("addon", "smr")


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("SPEC = 1 / 0", "ZeroDivisionError"),
        ("SPCE = 1", "AttributeError"),
        ("def", "SyntaxError"),
    ],
)
def test_a_broken_plugin_hurts_only_who_asks_for_it(site, module: str, cause: str) -> None:
    site.install("bad", {"ssm.backbones": {"bad": "fake_bad:SPEC"}}, {"fake_bad": module}, version="0.3")
    assert registry.describe("backbone", "s5")[1].name == "s5"
    message = rf"backbone 'bad' from bad 0\.3 \(fake_bad:SPEC\) could not be loaded: {cause}"
    with pytest.raises(PluginError, match=message) as caught:
        registry.describe("backbone", "bad")
    assert caught.value.__cause__ is not None
    assert "uninstall bad" in caught.value.hint


def test_a_plugin_whose_layer_is_broken_can_still_be_described(site) -> None:
    modules = {"fake_spec": source("half", build="fake_gone:build")}
    site.install("half-dist", {"ssm.backbones": {"half": "fake_spec:SPEC"}}, modules)
    assert registry.describe("backbone", "half")[1].summary == "s"
    with pytest.raises(
        PluginError, match=r"'half' from half-dist 1\.0 cannot be built: fake_gone:build: ModuleNotFound"
    ):
        registry.builder("backbone", "half")


@pytest.mark.parametrize("build", ["fake_layer:biuld", "fake_layer", ""])
def test_a_build_that_names_nothing_is_told(site, build: str) -> None:
    modules = {"fake_spec": source("half", build=build or ":"), "fake_layer": "def build(): ..."}
    site.install("half-dist", {"ssm.backbones": {"half": "fake_spec:SPEC"}}, modules)
    with pytest.raises(PluginError, match="cannot be built"):
        registry.builder("backbone", "half")


def test_a_clash_is_settled_by_the_long_name(site) -> None:
    modules = {"fake_spec": source("s5")}
    site.install("other", {"ssm.backbones": {"s5": "fake_spec:SPEC"}}, modules)
    assert {"other/s5", "ssm-core/s5"} <= names()
    with pytest.raises(PluginError) as caught:
        registry.describe("backbone", "s5")
    message = str(caught.value)
    assert "backbone 's5' is registered 2 times" in message
    assert "other/s5 -> fake_spec:SPEC" in message
    assert "ssm-core/s5 -> ssm_core.backbones.s5.spec:SPEC" in message
    assert "<distribution>/<name>" in message
    assert registry.describe("backbone", "other/s5")[1].summary == "s"
    assert registry.describe("backbone", "ssm-core/s5")[1].summary != "s"


def test_one_declaration_seen_twice_is_one_plugin(site, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = {"ssm.backbones": {"mine": "fake_spec:SPEC"}}
    site.install("dist", point, {"fake_spec": source("mine")})
    twin = type(site)(tmp_path / "twin")
    twin.path.mkdir()
    monkeypatch.syspath_prepend(twin.path)
    twin.install("dist", point, version="1.1")
    assert registry.describe("backbone", "mine")[1].name == "mine"


@pytest.mark.parametrize(("api", "advice"), [(2, "upgrade ssm-core"), (0, "upgrade old")])
def test_another_api_number_is_refused_with_both(site, api: int, advice: str) -> None:
    site.install("old", {"ssm.backbones": {"old": "fake_spec:SPEC"}}, {"fake_spec": source("old", api)})
    with pytest.raises(PluginError, match=f"written for plugin API {api}; this is API 1\n.*{advice}"):
        registry.describe("backbone", "old")


def test_what_is_no_spec_is_refused(site) -> None:
    site.install("odd", {"ssm.backbones": {"odd": "fake_spec:SPEC"}}, {"fake_spec": "SPEC = {}"})
    with pytest.raises(PluginError, match="fake_spec:SPEC is a dict, not a BackboneSpec"):
        registry.describe("backbone", "odd")


def test_a_spec_of_another_kind_is_refused(site) -> None:
    """An add-on's spec under the backbones' group would fail far from its cause."""
    modules = {"fake_spec": source("odd").replace("BackboneSpec", "AddonSpec")}
    site.install("odd", {"ssm.backbones": {"odd": "fake_spec:SPEC"}}, modules)
    with pytest.raises(PluginError, match="AddonSpec"):
        registry.describe("backbone", "odd")


def test_a_spec_of_another_name_is_refused(site) -> None:
    site.install("odd", {"ssm.backbones": {"odd": "fake_spec:SPEC"}}, {"fake_spec": source("even")})
    with pytest.raises(PluginError, match="calls itself 'even'"):
        registry.describe("backbone", "odd")


def test_a_knob_that_no_configuration_can_set_is_refused(site) -> None:
    module = source("mine").replace("size: ", "name: ")
    site.install("dist", {"ssm.backbones": {"mine": "fake_spec:SPEC"}}, {"fake_spec": module})
    with pytest.raises(PluginError, match="has a knob called 'name'"):
        registry.describe("backbone", "mine")


def test_a_config_error_names_the_long_name(site) -> None:
    site.install("dist", {"ssm.backbones": {"mine": "fake_spec:SPEC"}}, {"fake_spec": source("mine")})
    with pytest.raises(Exception, match=r"backbone dist/mine has no setting 'backbone\.siez'"):
        registry.configure("backbone", "mine", {"siez": 4})


@pytest.mark.parametrize(
    ("switch", "value", "seen"),
    [
        ("SSM_PLUGINS", "none", set()),
        ("SSM_PLUGINS", "other_dist", {"other-dist/mine"}),
        ("SSM_PLUGINS", "ssm-core, Other-Dist", {"other-dist/mine", "ssm-core/s5"}),
        ("SSM_PLUGINS_BLOCK", "ssm_core", {"other-dist/mine"}),
        ("SSM_PLUGINS_BLOCK", "other-dist", {"ssm-core/s5"}),
    ],
)
def test_switches_limit_what_is_seen(
    site,
    monkeypatch: pytest.MonkeyPatch,
    fresh_registry: Callable[[], None],
    switch: str,
    value: str,
    seen: set[str],
) -> None:
    site.install("other-dist", {"ssm.backbones": {"mine": "fake_spec:SPEC"}}, {"fake_spec": source("mine")})
    monkeypatch.setenv(switch, value)
    fresh_registry()
    assert names() & {"other-dist/mine", "ssm-core/s5"} == seen


def test_every_kind_has_its_group() -> None:
    assert set(registry.KINDS) == {"backbone", "addon", "task", "probe", "bench", "recipe", "command"}
    assert all(re.fullmatch(r"ssm\.\w+", group) for group in registry.KINDS.values())


def test_describing_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from ssm_core.plugin import registry; from ssm_core.run.config import RunConfig;"
        "registry.describe('backbone', 's5'); RunConfig.from_tree({'backbone': {'name': 's5'}});"
        "sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

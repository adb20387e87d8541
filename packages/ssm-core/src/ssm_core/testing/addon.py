"""The conformance suite of add-ons: what is wrapped still keeps the whole contract, and wrapping composes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from ssm_core.compose import Addon, Slots, of_addons, whole
from ssm_core.model import build_stack
from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError, UserError
from ssm_core.plugin.spec import AddonSpec, Capabilities
from ssm_core.protocols import LayerInfo, Make, Mixer, Needs
from ssm_core.run.config import Choice, ModelConfig
from ssm_core.testing.checks.claims import refusal
from ssm_core.testing.mixer import MixerSuite
from ssm_core.testing.subject import build_parts
from ssm_core.testing.tiny import TinyMixer


class AddonSuite(MixerSuite):
    """Runs the mixer suite on the add-on round a tiny mixer and round S5, then checks how it composes.

    ::

        class TestMine(AddonSuite):
            addon = "mine"
            config = {"tau": 3}

    Attributes:
        addon: Registered name of the add-on.
        config: Its knobs.
        identity: Knobs under which it changes nothing at the start; None if it makes no such claim.
        hosts: What it is put round: ``tiny``, ``s5``.
        capabilities: What is left of a host that can do all.
        host_config: Knobs of S5.
        zero_gap_is_noop: False: add-ons mostly count elements, not time.
        host: The one in use, set for each check.
    """

    addon: ClassVar[str] = ""
    identity: ClassVar[Mapping[str, Any] | None] = None
    hosts: ClassVar[tuple[str, ...]] = ("tiny", "s5")
    host_config: ClassVar[Mapping[str, Any]] = {"state_size": 8, "blocks": 2, "dt_min": 0.05, "dt_max": 0.5}
    capabilities: ClassVar[Capabilities | None] = Capabilities(bidirectional=True, dt=True)
    zero_gap_is_noop: ClassVar[bool] = False
    host: str

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Repeat every check for each host."""
        metafunc.parametrize("_host", self.hosts, indirect=True)

    @pytest.fixture(autouse=True)
    def _host(self, request: pytest.FixtureRequest) -> None:
        self.host = request.param

    def active(self, config: Mapping[str, Any] | None = None) -> Addon:
        """Return the add-on, built and ready to be put into its slot."""
        assert self.addon, f"{type(self).__name__} has to set 'addon'"
        spec, build = registry.builder("addon", self.addon)
        assert isinstance(spec, AddonSpec)
        knobs = registry.configure("addon", self.addon, self.config if config is None else config)
        return Addon(self.addon, spec.slot, build(knobs))

    def make(self, width: int, causal: bool) -> Mixer:
        """Build the add-on round its host."""
        layer = self.layer(width, causal)
        if self.host == "s5":
            return build_parts("s5", self.host_config, layer, [self.active()])["block"]
        return self.round_tiny(layer, [self.active()])

    def round_tiny(self, layer: LayerInfo, addons: list[Addon], **knobs: Any) -> Any:
        """Build add-ons round a tiny mixer."""
        tiny: Make = lambda width: TinyMixer(width, causal=layer.causal, **knobs)  # noqa: E731
        return whole(tiny, Slots(addons, layer), layer.d_model)

    def test_what_the_inner_mixer_denies_stays_denied(self) -> None:
        """Round a mixer that takes no gaps it takes none either, or cannot be built."""
        self._once()
        layer = self.layer(self.widths[-1], True)
        try:
            mixer = self.round_tiny(layer, [self.active()], takes_dt=False)
        except UserError:
            return
        assert not mixer.takes_dt
        with refusal("dt|gap|time"):
            mixer(torch.randn(2, 4, mixer.d_model), dt_bl=torch.ones(2, 4))

    def test_it_starts_as_the_identity_if_it_says_so(self) -> None:
        """Then it can be put on a trained backbone."""
        self._once()
        if self.identity is None:
            pytest.skip("does not claim to start as the identity")
        layer = self.layer(self.widths[-1], True)
        mixer = self.round_tiny(layer, [self.active(self.identity)])
        bare = next(part for part in mixer.modules() if isinstance(part, TinyMixer))
        x = torch.randn(2, 33, bare.d_model)
        self.same(mixer(x)[0], bare(x)[0], "output at the start, with and without")

    def test_layers_selects_blocks(self) -> None:
        """The knob ``layers`` puts it on some blocks only, and on none is an error."""
        self._once()
        names = self._parameters_of_blocks("1")
        assert len(names[0]) == len(names[2]), "blocks that are not selected differ"
        assert names[0] != names[1], "the block that is selected got no add-on"
        with pytest.raises(ConfigError, match="layers"):
            self._parameters_of_blocks("7")

    def _parameters_of_blocks(self, layers: str) -> list[set[str]]:
        addon = Choice.of("addon", self.addon, {**self.config, "layers": layers}, "addons")
        s5 = Choice.of("backbone", "s5", self.host_config, "backbone")
        model = ModelConfig(d_model=self.widths[-1], n_layers=3, causal=bool(self.claims().causal))
        stack = build_stack(s5, [addon], model, Needs(), None)
        return [{name for name, _ in block.named_parameters()} for block in stack.blocks]

    def test_add_ons_nest_in_their_order(self) -> None:
        """``--addon a --addon b`` is b(a(x)), whichever of the two this one is."""
        self._once()
        mine, layer = self.active(), self.layer(self.widths[-1], True)
        other = Addon("other", mine.slot, lambda make, width, layer: Other(make(width)))
        assert isinstance(self.round_tiny(layer, [mine, other]), Other)
        mixer = self.round_tiny(layer, [other, mine])
        assert not isinstance(mixer, Other)
        assert any(isinstance(part, Other) for part in mixer.modules())

    def test_what_it_goes_round_is_named_inner(self) -> None:
        """So weights of a run without the add-on find their place, and only the add-on's own count as new."""
        self._once()
        mixer = self.round_tiny(self.layer(self.widths[-1], True), [self.active()])
        wrapped = {
            id(value)
            for part in mixer.modules()
            if isinstance(part, TinyMixer)
            for value in part.parameters()
        }
        own = of_addons(mixer)
        for name, value in mixer.named_parameters():
            assert (name in own) == (id(value) not in wrapped), (
                f"{name}: an add-on keeps what it goes round, and nothing else, as 'inner'"
            )

    def test_side_inputs_reach_the_inner_mixer(self) -> None:
        """Tensors that come beside x are passed on, or resampled with it; never dropped."""
        self._once()
        mixer = self.round_tiny(self.layer(self.widths[-1], True), [self.active()])
        x = torch.randn(2, 9, mixer.d_model)
        plain, ones, halves = (
            mixer(x, side=side)[0]
            for side in (None, {"scale": torch.ones_like(x)}, {"scale": torch.full_like(x, 0.5)})
        )
        self.same(ones, plain, "output with side inputs of 1")
        assert (halves - plain).abs().max() > 1e-3, "side inputs have no effect"

    def _once(self) -> None:
        if self.host != self.hosts[0]:
            pytest.skip("does not depend on the host")


class Other(nn.Module):
    """An add-on that does nothing: stands for whatever else is in the slot."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.d_model, self.causal = inner.d_model, inner.causal
        self.streaming, self.takes_dt = inner.streaming, inner.takes_dt

    def init_state(self, *args: Any, **kwargs: Any) -> Any:
        """Return the inner state."""
        return self.inner.init_state(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the inner mixer."""
        return self.inner(*args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Step the inner mixer."""
        return self.inner.step(*args, **kwargs)

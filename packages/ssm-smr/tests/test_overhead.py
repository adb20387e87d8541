"""The bench of the gate's overhead: its check sees a wrong gate, its figures are the medians of paired ratios."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssm_core.plugin import registry
from ssm_core.plugin.errors import ConfigError
from ssm_smr.layer import gates
from ssm_smr.overhead import measure as bench
from ssm_smr.overhead.contenders import gate_error, models, training_step
from ssm_smr.overhead.spec import OverheadConfig

SMALL: dict[str, Any] = {
    "backbones": "s5",
    "lengths": "8,16",
    "width": 4,
    "layers": 2,
    "state": 4,
    "repeats": 1,
}


def test_models_differ_by_the_gate_alone() -> None:
    built = models(OverheadConfig(**SMALL), "s5", 16)
    assert list(built) == ["without", "depthwise", "dense"]
    assert [len(gates(model)) for model in built.values()] == [0, 2, 2]
    counts = [sum(p.numel() for p in model.parameters()) for model in built.values()]
    assert counts[1] - counts[0] == 2 * (4 * 4 + 4)
    assert counts[2] - counts[0] == 2 * (4 * 4 * 4 + 4)
    assert built["dense"].stack.causal  # type: ignore[union-attr]


def test_a_step_trains() -> None:
    model = models(OverheadConfig(**SMALL), "s5", 8)["dense"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training_step(model, torch.randn(2, 8, 4))()
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert {"stack.blocks.0.mixer.weight", "stack.blocks.1.mixer.inner.B"} <= set(changed)


@pytest.mark.parametrize("mode", ["depthwise", "dense"])
def test_the_check_sees_a_gate_that_is_off(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = models(OverheadConfig(**SMALL), "s5", 16)[mode], torch.randn(2, 16, 4)
    assert gate_error(model, x) <= bench.TOLERANCE
    second = gates(model)[1]
    original = second._gate

    def off(*args: Any, **given: Any) -> Any:
        gated, own = original(*args, **given)
        return {"x_bld": 1.001 * gated["x_bld"]}, own

    monkeypatch.setattr(second, "_gate", off)
    assert gate_error(model, x) == pytest.approx(1e-3, rel=0.01)
    monkeypatch.setattr(bench, "models", lambda *_: {"without": model, "depthwise": model, "dense": model})
    with pytest.raises(AssertionError, match="gate in s5 is off its definition by"):
        bench.measure(OverheadConfig(**SMALL))


def test_figures_are_medians_of_ratios_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow round slows both, and leaves their ratio alone."""
    ms = {
        "without": [10.0, 20.0, 10.0],
        "depthwise": [11.0, 22.0, 10.5],
        "gate depthwise": [0.2, 0.2, 0.4],
    }
    monkeypatch.setattr(
        bench, "take_turns", lambda *_: {k: [v / 1e3 for v in values] for k, values in ms.items()}
    )
    result = bench.measure(OverheadConfig(**{**SMALL, "modes": "depthwise", "batch": 2}))
    assert [row["L"] for row in result.rows] == [8, 16]
    for row in result.rows:
        assert row["overhead_percent"] == pytest.approx(10.0)
        assert (row["low"], row["high"]) == (pytest.approx(7.5), pytest.approx(10.0))
        assert (row["without_ms"], row["with_ms"]) == (10.0, 11.0)
        assert row["gate_ns_per_element"] == pytest.approx(2e5 / (2 * row["L"]))
    assert result.figures["s5, depthwise, L 8: overhead, %"] == pytest.approx(10.0)
    assert result.figures["largest overhead, depthwise, %"] == pytest.approx(10.0)
    assert result.figures["gate in s5, depthwise: time per element, L 16 / L 8"] == pytest.approx(0.5)
    (curve,) = result.charts[0].curves
    assert (curve.label, list(curve.x)) == ("s5, depthwise", [8, 16])


def test_a_batch_keeps_its_number_of_elements() -> None:
    assert OverheadConfig(lengths="4096, 1024,16384").sizes == [(1024, 16), (4096, 4), (16384, 1)]
    assert OverheadConfig(lengths="64,16", batch=3).sizes == [(16, 3), (64, 3)]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"lengths": "16,x"}, "whole numbers"),
        ({"modes": "dense,deep"}, "depthwise, dense or both"),
        ({"backbones": "s5,"}, "names separated by commas"),
        ({"repeats": 0}, "at least 1"),
        ({"threads": -1}, "at least 0"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.configure("bench", "smr", knobs)

"""Property 16 round S4, which convolves by FFT: padding behind rows is as if it were not there, norms included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssm_core import build_model

NORMS = [{"norm": "batch", "prenorm": False}, {"norm": "rms", "prenorm": True}]


def model(causal: bool, norm: dict[str, Any], device: str) -> Any:
    torch.manual_seed(0)
    return build_model(
        "s4",
        ["serpent"],
        d_input=3,
        d_model=8,
        n_layers=2,
        causal=causal,
        max_length=128,
        model_config=norm,
        addon_configs=[{"compression": [0.4], "window": 3}],
    ).to(device)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm", NORMS, ids=["batch", "rms"])
@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=2),
    padding=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_16_padding_changes_nothing_round_s4(causal, norm, device, lengths, padding, seed):
    net, longest = model(causal, norm, device), max(lengths)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), longest + padding, 3, generator=generator).to(device)
    mask = torch.arange(longest + padding, device=device) < torch.tensor(lengths, device=device)[:, None]
    x = x.masked_fill(~mask[..., None], torch.nan)
    with torch.no_grad():
        for training in (False, True):
            padded, tight = (net.train(training)(x[:, :n], mask_bl=mask[:, :n])[0] for n in (None, longest))
            same(padded[mask], tight[mask[:, :longest]])
            if not training:
                for b, length in enumerate(lengths):
                    same(padded[b, :length], net(x[b : b + 1, :length])[0][0])


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * max(1e-30, float(expected.abs().max())))

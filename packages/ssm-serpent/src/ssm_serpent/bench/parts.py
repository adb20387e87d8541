"""What the bench times: the index stage, a branch and the layer as functions of their leaves, ours and direct."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ssm_core.ops import fft_conv, vandermonde
from ssm_core.protocols import LayerInfo
from ssm_serpent.bench.direct import direct_encode, direct_index, direct_spread
from ssm_serpent.bench.spec import SerpentBenchConfig
from ssm_serpent.build import build
from ssm_serpent.index import resample_index
from ssm_serpent.intervals import Intervals, intervals
from ssm_serpent.ops import encode, spread
from ssm_serpent.spec import SerpentConfig
from ssm_serpent.token_dot import token_dot

Function = Callable[..., Tensor]


class Parts(NamedTuple):
    """The same stage by two hands: functions of the leaves that `leaves` makes."""

    name: str
    ours: Function
    direct: Function


def leaves(config: SerpentBenchConfig, batch: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    """Make x, logits for the index stage alone, and the parameters of a layer.

    These are w and b of the intervals, M, c, mu, log gamma, the base branch's map, and two state-space models.
    """
    generator = torch.Generator().manual_seed(0)
    h, columns, pairs = config.width // 2, config.width + config.basis, config.state_size // 2

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(config.device, dtype)

    spread_of_centres = torch.linspace(-config.window / 2, config.window / 2, config.basis)
    models = [normal(h, pairs, 2, scale=scale) for _ in range(2) for scale in (1, 0.5)]
    # A power of two, so that products are exact and float32 and float64 have the same ticks.
    share = 2.0 ** -round(math.log2(config.width) / 2)
    return [
        normal(batch, length, config.width),
        normal(batch, length) - 1,
        normal(config.width).sign() * share,
        normal().fill_(-1),
        normal(h, config.window, columns, scale=1 / math.sqrt(config.window * columns)),
        normal(h),
        spread_of_centres.to(config.device, dtype),
        normal(config.basis, scale=0.1),
        normal(h, config.width, scale=config.width**-0.5),
        normal(h),
        *models,
    ]


_PARAMETERS = (
    "branches.1.resampler.interval_map.weight",
    "branches.1.resampler.interval_map.bias",
    "branches.1.resampler.encoder.weight",
    "branches.1.resampler.encoder.bias",
    "branches.1.resampler.encoder.centres",
    "branches.1.resampler.encoder.log_gamma",
    "branches.0.into.weight",
    "branches.0.into.bias",
    "branches.0.inner.v",
    "branches.0.inner.rate",
    "branches.1.inner.v",
    "branches.1.inner.rate",
)
"""Names in a layer of what `leaves` makes from the third on."""


def parts(config: SerpentBenchConfig) -> list[Parts]:
    """List the stages, from the index alone to the whole layer as users run it."""
    layer = _layer(config)

    def spans(logits_bl: Tensor) -> Intervals:
        return intervals(logits_bl, config.compression, 1.0)

    def index(_x, logits, *_) -> Tensor:
        return resample_index(spans(logits), config.window, "nearest").distance_bkw

    def index_directly(_x, logits, *_) -> Tensor:
        found = direct_index(spans(logits), config.window)
        return found.distance_bkw * found.valid_bk[..., None]

    def branch(x, _logits, w, b, weight, bias, mu, log_gamma, *_) -> Tensor:
        maps = resample_index(spans(token_dot(x, w) + b.double()), config.window, "nearest")
        places = maps.start_bk, maps.inside_bkw, maps.distance_bkw.to(x.dtype)
        return spread(encode(x, *places, weight, bias, mu, log_gamma), maps.point_bl)

    def branch_directly(
        x, _logits, w, b, weight, bias, mu, log_gamma, *_, ssm: Function = lambda y: y
    ) -> Tensor:
        maps = direct_index(spans(x @ w + b), config.window)
        return direct_spread(ssm(direct_encode(x, maps, weight, bias, mu, log_gamma)), maps)

    def block(x, _logits, *parameters) -> Tensor:
        return functional_call(layer, dict(zip(_PARAMETERS, parameters, strict=True)), (x,))[0]

    def block_directly(*given) -> Tensor:
        x, (into, c, v0, rate0, v1, rate1) = given[0], given[-6:]
        whole = ssm(nn.functional.linear(x, into, c), v0, rate0)
        return torch.cat([whole, branch_directly(*given, ssm=lambda y: ssm(y, v1, rate1))], -1)

    return [
        Parts("index stage", index, index_directly),
        Parts("branch without SSM", branch, branch_directly),
        Parts("block with SSM", block, block_directly),
    ]


def _layer(config: SerpentBenchConfig) -> nn.Module:
    """Build the add-on's layer, a base and a compressed branch, on the device."""
    knobs = SerpentConfig(
        compression=(config.compression,),
        window=config.window,
        basis=config.basis,
        mode="nearest",
        train_width=True,
    )
    where = LayerInfo(index=0, n_layers=1, d_model=config.width, causal=False)
    mixer: Any = _Mixer
    made: Any = build(knobs)(lambda width: mixer(width, config.state_size // 2), config.width, where)
    return made.to(config.device)


class _Mixer(nn.Module):
    """`ssm` as a mixer; what lies behind a row's points is as the encoder leaves it, zero."""

    streaming = takes_dt = False
    causal = True

    def __init__(self, d_model: int, pairs: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.v = nn.Parameter(torch.zeros(d_model, pairs, 2))
        self.rate = nn.Parameter(torch.zeros(d_model, pairs, 2))

    def init_state(self, batch_size: int, **like: Any) -> tuple[()]:
        return ()

    def forward(self, x_bld: Tensor, **given: Any) -> tuple[Tensor, tuple[()]]:
        return ssm(x_bld, self.v, self.rate), ()


def ssm(u_blh: Tensor, v: Tensor, rate: Tensor) -> Tensor:
    """A diagonal S4 layer: a kernel of as many steps as there are, a convolution by FFT, GELU."""
    log_x = torch.complex(-0.01 * rate[..., 0].exp(), 0.1 * rate[..., 1])
    kernel = vandermonde(torch.view_as_complex(v.contiguous()), log_x, u_blh.shape[1])
    return torch.nn.functional.gelu(fft_conv(u_blh, kernel))

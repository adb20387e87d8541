"""What the bench times: stages of a block as functions of their leaves, ours and direct."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_core.ops import fft_conv, vandermonde
from ssm_serpent.bench.direct import direct_encode, direct_index, direct_spread
from ssm_serpent.bench.spec import SerpentBenchConfig
from ssm_serpent.index import resample_index
from ssm_serpent.intervals import Intervals, intervals
from ssm_serpent.join import join
from ssm_serpent.ops import encode, spread

Function = Callable[..., Tensor]


class Parts(NamedTuple):
    """The same stage by two hands: functions of the leaves that `leaves` makes."""

    name: str
    ours: Function
    direct: Function


def leaves(config: SerpentBenchConfig, batch: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    """Make x, logits of the intervals, M, c, mu, log gamma, the base branch's map, and two state-space models."""
    generator = torch.Generator().manual_seed(0)
    h, columns = config.width // 2, config.width + config.basis

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(config.device, dtype)

    spread_of_centres = torch.linspace(-config.window / 2, config.window / 2, config.basis)
    model = [
        value
        for _ in range(2)
        for value in (
            normal(h, config.state_size // 2, 2),
            0.5 * normal(h, config.state_size // 2, 2),
        )
    ]
    return [
        normal(batch, length, config.width),
        normal(batch, length) - 1,
        normal(h, config.window, columns, scale=1 / math.sqrt(config.window * columns)),
        normal(h),
        spread_of_centres.to(config.device, dtype),
        normal(config.basis, scale=0.1),
        normal(h, config.width, scale=config.width**-0.5),
        *model,
    ]


def parts(config: SerpentBenchConfig) -> list[Parts]:
    """List the stages, from the index alone to the whole block."""

    def spans(logit_bl: Tensor) -> Intervals:
        return intervals(logit_bl, config.compression, 1.0)

    def index(x, logits, *_) -> Tensor:
        return resample_index(spans(logits), config.window, "nearest").distance_bkw

    def index_directly(x, logits, *_) -> Tensor:
        found = direct_index(spans(logits), config.window)
        return found.distance_bkw * found.valid_bk[..., None]

    def branch(x, logits, weight, bias, mu, log_gamma, ssm: Function = lambda y: y) -> Tensor:
        maps = resample_index(spans(logits), config.window, "nearest")
        places = maps.start_bk, maps.inside_bkw, maps.distance_bkw
        return spread(ssm(encode(x, *places, weight, bias, mu, log_gamma)), maps.point_bl)

    def branch_directly(x, logits, weight, bias, mu, log_gamma, ssm: Function = lambda y: y) -> Tensor:
        maps = direct_index(spans(logits), config.window)
        return direct_spread(ssm(direct_encode(x, maps, weight, bias, mu, log_gamma)), maps)

    def block(compressed: Function) -> Function:
        def run(x, logits, weight, bias, mu, log_gamma, base, v0, rate0, v1, rate1) -> Tensor:
            whole = ssm(x @ base.T, v0, rate0)  # first, as in a model
            other = compressed(x, logits, weight, bias, mu, log_gamma, lambda y: ssm(y, v1, rate1))
            return join([whole, other])

        return run

    return [
        Parts("index stage", index, index_directly),
        Parts("branch without SSM", lambda *a: branch(*a[:6]), lambda *a: branch_directly(*a[:6])),
        Parts("block with SSM", block(branch), block(branch_directly)),
    ]


def ssm(u_blh: Tensor, v: Tensor, rate: Tensor) -> Tensor:
    """A diagonal S4 layer: a kernel of as many steps as there are, a convolution by FFT, GELU."""
    log_x = torch.complex(-0.01 * rate[..., 0].exp(), 0.1 * rate[..., 1])
    kernel = vandermonde(torch.view_as_complex(v.contiguous()), log_x, u_blh.shape[1])
    return torch.nn.functional.gelu(fft_conv(u_blh, kernel))

"""Handing points back to the tokens (eq. 15a)."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_numeric, check_real, check_shape, compute_dtype
from ssm_core.opkit.operator import operator
from ssm_serpent.ops.spread import reference


def spread(
    y_bkh: Tensor, point_bl: Tensor, *, before_bh: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """Let each token read its point: y_l = y~_{q(l)}, and `before_bh` or zero where q(l) = 0.

    Args:
        y_bkh: Points, real (B, K, h), any strides, K = 0 included; point k is row k - 1.
        point_bl: (B, L) int64, q(l): the point that a token reads, 1..K, or 0 for none. Along a row it does not
            decrease, but for zeros at the end (padding).
        before_bh: (B, h), what tokens without a point read: the last point of an earlier chunk. Zeros if None.
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        (B, L, h) in the dtype of y, differentiable (once; on "reference" to any order) in y and `before_bh`. Backward
        sums the gradients of the tokens of a point one after the other, in float32 at least: no atomics, the same
        bits in every run.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or (seen on a CPU only) points that are not there or not
            sorted; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Source:
        Eq. (15a) of SeRpEnt, arXiv 2501.11729.

    Example:
        >>> spread(torch.tensor([[[5.0], [7.0]]]), torch.tensor([[0, 1, 1, 2]])).flatten().tolist()
        [0.0, 5.0, 5.0, 7.0]
    """
    backend = dispatch.requested("spread", backend)
    _check(y_bkh, point_bl, before_bh)
    with torch.autocast(y_bkh.device.type, enabled=False):
        if backend != "reference":
            (out,) = _operator(y_bkh, point_bl, before_bh, backend)
            return out
        dtype = compute_dtype(y_bkh, before_bh)
        before_bh = None if before_bh is None else before_bh.to(dtype)
        return reference.spread(y_bkh.to(dtype), point_bl, before_bh).to(y_bkh.dtype)


def _check(y, point, before) -> None:
    op = "spread"
    check_numeric(op, y_bkh=y, before_bh=before)
    check_real(op, y_bkh=y, before_bh=before)
    if y.ndim != 3:
        raise ValueError(f"{op}: y_bkh has shape {tuple(y.shape)}, expected (B, K, h)")
    if point.ndim != 2 or len(point) != len(y) or point.dtype != torch.int64 or point.device != y.device:
        raise ValueError(
            f"{op}: point_bl is {point.dtype} of shape {tuple(point.shape)} on {point.device}, expected int64 "
            f"({len(y)}, L) on {y.device}"
        )
    if before is not None:
        check_shape(op, "before_bh", before, (y.shape[0], y.shape[2]), letters="(B, h) of y_bkh")


def _fake(y, point, before) -> tuple[Tensor]:
    return (y.new_empty(*point.shape, y.shape[2]),)


_operator = operator(
    "ssm_serpent::spread",
    "y point before?",
    "",
    _fake,
    outputs=1,
    public=1,
    constant=("point",),
    package="ssm_serpent.ops",
)


def _probe(backend: str) -> Tensor:
    point = torch.tensor([[0, 1, 1, 2], [1, 2, 0, 0]])
    return spread(torch.arange(12.0).view(2, 2, 3), point, before_bh=-torch.ones(2, 3), backend=backend)


dispatch.register("spread", _probe, "ssm_serpent.ops")

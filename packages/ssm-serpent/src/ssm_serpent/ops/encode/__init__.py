"""Encoding windows of tokens as points (eqs. 12a and 12b)."""

import torch
from torch import Tensor

from ssm_core.opkit import dispatch
from ssm_core.opkit.checks import check_numeric, check_real, check_shape, compute_dtype
from ssm_core.opkit.operator import operator
from ssm_serpent.ops.encode import reference


def encode(
    x_bld: Tensor,
    start_bk: Tensor,
    inside_bkw: Tensor,
    distance_bkw: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Make a point of each window: x~_k = c + sum_j M_j [x_{s_k+j}; e(d_{k,j})], e_g(d) = exp(-gamma_g (d - mu_g)^2).

    Slots that hold no token contribute nothing, and a row without any is zero, the bias left out. What stands in a
    token that no window holds, NaN included, has no effect. Memory is O(B K (h + W (1 + G)) + B L D): the tokens of all
    windows, (B, K, W, D), never lie side by side, but a small part at a time, gathered again in backward.

    Args:
        x_bld: Tokens, real (B, L, D), any strides, L = 0 included.
        start_bk: (B, K) int64, s_k, the first token of each window, which may lie before the sequence. Over the rows in
            use, which come first, it does not decrease.
        inside_bkw: (B, K, W) bool, True where slot j holds a token, namely ``start_bk + j``.
        distance_bkw: (B, K, W) real, d_{k,j}; not read where a slot holds no token.
        weight: M, real (h, W, D + G): for each slot the columns of the token, then those of the basis functions.
        bias: c, (h,), or None.
        centres: mu, (G,); G = 0 leaves the distances out.
        log_gamma: log of gamma, (G,).
        backend: "reference", "torch", "numba" or "triton"; None takes SSM_BACKEND or else the fastest that runs.

    Returns:
        (B, K, h) in the dtype of x, differentiable (once; on "reference" to any order) in every real argument.
        Arithmetic is in float32 at least, or the widest dtype given, also under autocast. Backward uses no atomics:
        it is the same bits in every run.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or (seen on a CPU only) windows reach outside the sequence or
            are not sorted; the message names the argument.
        RuntimeError: The backend asked for cannot run here.

    Source:
        Eqs. (12a) and (12b) of SeRpEnt, arXiv 2501.11729.

    Example:
        >>> start, inside = torch.tensor([[0, 1]]), torch.ones(1, 2, 2, dtype=torch.bool)
        >>> x, none = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1), torch.ones(0)
        >>> encode(x, start, inside, torch.zeros(1, 2, 2), torch.ones(1, 2, 1), None, none, none).flatten().tolist()
        [11.0, 110.0]
    """
    backend = dispatch.requested("encode", backend)
    tensors = x_bld, start_bk, inside_bkw, distance_bkw, weight, bias, centres, log_gamma
    _check(*tensors)
    with torch.autocast(x_bld.device.type, enabled=False):
        if backend != "reference":
            (out,) = _operator(*tensors, backend)
            return out
        dtype = compute_dtype(x_bld, distance_bkw, weight, bias, centres, log_gamma)
        wide = (x if x is None or not x.is_floating_point() else x.to(dtype) for x in tensors)
        return reference.encode(*wide).to(x_bld.dtype)  # pyright: ignore[reportArgumentType]


def _check(x, start, inside, distance, weight, bias, centres, log_gamma) -> None:
    op = "encode"
    reals = {"x_bld": x, "distance_bkw": distance, "weight": weight, "bias": bias}
    reals |= {"centres": centres, "log_gamma": log_gamma}
    check_numeric(op, **reals)
    check_real(op, **reals)
    if x.ndim != 3:
        raise ValueError(f"{op}: x_bld has shape {tuple(x.shape)}, expected (B, L, D)")
    if (
        start.dtype != torch.int64
        or inside.dtype != torch.bool
        or {start.device, inside.device} != {x.device}
    ):
        raise ValueError(
            f"{op}: start_bk must be int64 and inside_bkw bool on {x.device}, got {start.dtype} on {start.device} and "
            f"{inside.dtype} on {inside.device}"
        )
    if inside.ndim != 3 or len(inside) != len(x) or inside.shape[2] == 0:
        raise ValueError(
            f"{op}: inside_bkw has shape {tuple(inside.shape)}, expected ({len(x)}, K, W) with W >= 1"
        )
    check_shape(op, "start_bk", start, tuple(inside.shape[:2]), letters="(B, K) of inside_bkw")
    check_shape(op, "distance_bkw", distance, tuple(inside.shape), letters="(B, K, W) of inside_bkw")
    check_shape(op, "centres", centres, (centres.numel(),), letters="(G,)")
    check_shape(op, "log_gamma", log_gamma, (centres.numel(),), letters="(G,) of centres")
    columns, h = x.shape[2] + centres.shape[0], weight.shape[0] if weight.ndim else 0
    check_shape(op, "weight", weight, (h, inside.shape[2], columns), letters="(h, W, D + G)")
    if bias is not None:
        check_shape(op, "bias", bias, (h,), letters="(h,) of weight")


def _fake(x, start, inside, distance, weight, bias, centres, log_gamma) -> tuple[Tensor]:
    return (x.new_empty(*start.shape, weight.shape[0]),)


_operator = operator(
    "ssm_serpent::encode",
    "x start inside distance weight bias? centres log_gamma",
    "",
    _fake,
    outputs=1,
    public=1,
    constant=("start", "inside"),
    package="ssm_serpent.ops",
)


def _probe(backend: str) -> Tensor:
    x, start = torch.arange(8.0).view(2, 4, 1), torch.tensor([[-1, 1], [0, 2]])
    inside = torch.tensor([[[False, True], [True, True]], [[True, True], [True, True]]])
    weight, two = torch.linspace(-1, 1, 18).view(3, 2, 3), torch.tensor([-0.5, 0.5])
    return encode(x, start, inside, torch.full((2, 2, 2), 0.25), weight, None, two, two, backend=backend)


dispatch.register("encode", _probe, "ssm_serpent.ops")

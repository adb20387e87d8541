"""Encoding in plain torch calls, on any device: windows laid side by side a tile at a time, then a matrix product.

The tokens of all windows together would be (B, K, W, D). They are gathered for as many points at a time as fit a small
buffer, and again in backward. On a GPU gradients reach a token by sums over the run of windows that start where its
slot says (starts are sorted): no scatter, hence no atomics.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ssm_serpent.ops._segments import segment_sums
from ssm_serpent.ops.encode.basis import features, features_backward
from ssm_serpent.ops.encode.windows import check_windows, places, run_edges

_TILE = {"cpu": 1 << 20}
"""Numbers in a tile of gathered windows: what a CPU's cache holds; elsewhere enough for a large product."""


def forward(
    x: Tensor,
    start: Tensor,
    inside: Tensor,
    distance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
) -> tuple[Tensor]:
    """Points (B, K, h). Clean inputs of one dtype assumed."""
    if x.device.type == "cpu":
        check_windows(x, start, inside)
    tokens_h, basis_h = split(weight, x.shape[2])
    out = from_basis(inside, distance, basis_h, bias, centres, log_gamma)
    for (low, high), tile in _tiles(x, start, inside):
        out[low:high].addmm_(tile, tokens_h.T)
    return (out.view(*start.shape, len(weight)),)


def backward(
    x: Tensor,
    start: Tensor,
    inside: Tensor,
    distance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, the distances, the weight, the bias, the centres and log_gamma."""
    grad = used_rows(grad, inside)
    tokens_h, basis_h = split(weight, x.shape[2])
    grad_tokens = torch.zeros_like(tokens_h)
    for (low, high), tile in _tiles(x, start, inside):
        grad_tokens.addmm_(grad[low:high].T, tile)
    to_tokens = _in_order if x.device.type == "cpu" else _by_runs
    grad_x = to_tokens(grad, tokens_h, x, start, inside)
    return grad_x, *basis_backward(grad, grad_tokens, inside, distance, basis_h, bias, centres, log_gamma)


def _by_runs(grad: Tensor, tokens_h: Tensor, x: Tensor, start: Tensor, inside: Tensor) -> Tensor:
    """The gradient of x by sums over runs of windows, slot by slot."""
    (batch, length, width), window = x.shape, inside.shape[2]
    edges = run_edges(start, inside, length)
    grad_x = x.new_zeros(x.shape)
    for j, weight_hd in enumerate(tokens_h.view(len(tokens_h), window, width).unbind(1)):
        to_slot = (grad @ weight_hd).view(batch, -1, width).masked_fill_(~inside[:, :, j, None], 0)
        grad_x += segment_sums(to_slot, edges)[:, window - 1 - j :][:, :length]
    return grad_x


def _in_order(grad: Tensor, tokens_h: Tensor, x: Tensor, start: Tensor, inside: Tensor) -> Tensor:
    """The same by adding slot after slot, which on a CPU is in order."""
    (_, length, width), window = x.shape, inside.shape[2]
    grad_x = x.new_zeros(x.shape)
    if not x.numel():
        return grad_x
    place, outside = places(start, window, length), ~inside.flatten(0, 1)
    for low, high in tile_ranges(len(place), window * width, x.device):
        tile = (grad[low:high] @ tokens_h).view(high - low, window, width)
        tile.masked_fill_(outside[low:high, :, None], 0)
        grad_x.view(-1, width).index_add_(0, place[low:high].flatten(), tile.flatten(0, 1))
    return grad_x


def split(weight: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The columns of M for tokens (h, W D) and for basis functions (h, W G), each slot by slot."""
    h = len(weight)
    return weight[:, :, :width].reshape(h, -1), weight[:, :, width:].reshape(h, -1)


def used_rows(grad: Tensor, inside: Tensor) -> Tensor:
    """The gradient of the points as a matrix (B K, h), zero for rows that are not in use."""
    return grad.masked_fill(~inside.any(2, keepdim=True), 0).flatten(0, 1)


def from_basis(
    inside: Tensor,
    distance: Tensor,
    basis_h: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
) -> Tensor:
    """What the distances and the bias give to the points: (B K, h)."""
    out = features(distance, inside, centres, log_gamma).flatten(0, 1).flatten(1) @ basis_h.T
    if bias is None:
        return out
    return out.add_(bias).masked_fill_(~inside.any(2).flatten()[:, None], 0)


def basis_backward(
    grad: Tensor,
    grad_tokens: Tensor,
    inside: Tensor,
    distance: Tensor,
    basis_h: Tensor,
    bias: Tensor | None,
    centres: Tensor,
    log_gamma: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of the distances, the weight (whose part for tokens is given), the bias, the centres, log_gamma."""
    shape = *inside.shape, len(centres)
    e = features(distance, inside, centres, log_gamma)
    grad_basis = grad.T @ e.flatten(0, 1).flatten(1)
    slots = len(grad_basis), shape[2]
    parts = grad_tokens.view(*slots, grad_tokens.shape[1] // slots[1]), grad_basis.view(*slots, shape[3])
    grad_e = (grad @ basis_h).view(shape)
    grad_distance, grad_centres, grad_log = features_backward(grad_e, distance, inside, centres, log_gamma)
    grad_bias = None if bias is None else grad.sum(0)
    return grad_distance, torch.cat(parts, 2), grad_bias, grad_centres, grad_log


def tile_ranges(points: int, columns: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Ranges of points whose windows, of that many columns, make a tile."""
    step = max(64, _TILE.get(device.type, 1 << 25) // max(columns, 1))
    for low in range(0, points, step):
        yield low, min(low + step, points)


def _tiles(x: Tensor, start: Tensor, inside: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Ranges of points, and the tokens in their windows (points, W D), zero in slots that hold none."""
    (_, length, width), window = x.shape, inside.shape[2]
    if length == 0:
        return
    rows, place, outside = x.reshape(-1, width), places(start, window, length), ~inside.flatten(0, 1)
    for low, high in tile_ranges(len(place), window * width, x.device):
        tile = rows.index_select(0, place[low:high].flatten()).view(high - low, window, width)
        yield (low, high), tile.masked_fill_(outside[low:high, :, None], 0).flatten(1)

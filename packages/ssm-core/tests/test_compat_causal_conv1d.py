"""ssm_core.compat.causal_conv1d against plain formulas, time last."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ssm_core.compat.causal_conv1d import causal_conv1d_fn, causal_conv1d_update

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def operands(*, batch: int = 3, dim: int = 4, length: int = 9, width: int = 4) -> list[Tensor]:
    """x (B, D, L), weight (D, W), bias (D,), initial states (B, D, W-1)."""
    torch.manual_seed(length)
    shapes = (batch, dim, length), (dim, width), (dim,), (batch, dim, width - 1)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, states: Tensor, activation: str | None) -> Tensor:
    """torch's own convolution, the states before x."""
    z = F.conv1d(torch.cat([states, x], 2), weight[:, None], bias, groups=len(weight))
    return F.silu(z) if activation else z


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("activation", [None, "silu", "swish"])
def test_equals_the_convolution(activation, width, length):
    x, weight, bias, states = operands(length=length, width=width)
    got = causal_conv1d_fn(x, weight, bias, activation=activation)
    torch.testing.assert_close(got, plain(x, weight, bias, 0 * states, activation), **CLOSE)
    y, last = causal_conv1d_fn(
        x, weight, initial_states=states, return_final_states=True, activation=activation
    )
    torch.testing.assert_close(y, plain(x, weight, None, states, activation), **CLOSE)
    assert torch.equal(last, torch.cat([states, x], 2)[..., length:])


def test_gradients_of_everything():
    leaves = [t.requires_grad_() for t in operands(length=5)]

    def function(x: Tensor, weight: Tensor, bias: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d_fn(x, weight, bias, None, states, return_final_states=True, activation="silu")

    assert torch.autograd.gradcheck(function, leaves)


def test_final_states_are_written_where_asked():
    x, weight, _, states = operands()
    place = torch.full_like(states, torch.nan)
    y, last = causal_conv1d_fn(x, weight, return_final_states=True, final_states_out=place)
    assert last is place
    assert torch.equal(place, x[..., -3:])
    assert torch.equal(y, causal_conv1d_fn(x, weight))


def test_half_precision_stays():
    x, weight, bias, _ = (t.bfloat16() for t in operands())
    y, last = causal_conv1d_fn(x, weight, bias, return_final_states=True)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.bfloat16)
    assert causal_conv1d_update(x[..., 0], last, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("with_states", [False, True])
def test_taps_do_not_cross_where_the_id_changes(with_states):
    leaves = [t.requires_grad_() for t in operands()]
    x, weight, bias, states = leaves
    ids = torch.tensor(
        [[0, 0, 0, 1, 1, 2, 2, 2, 2], [5, 5, 5, 5, 5, 5, 5, 5, 5], [0, 1, 2, 3, 3, 3, 3, 3, 4]]
    )
    given = states if with_states else None
    y, last = causal_conv1d_fn(x, weight, bias, ids.int(), given, True, activation="silu")
    rows, ends = [], []
    for row, id_row in enumerate(ids):
        before, parts = states[row : row + 1] if with_states else 0 * states[:1], []
        for run in torch.unique_consecutive(id_row):
            piece = x[row : row + 1, :, id_row == run]
            parts.append(plain(piece, weight, bias, before, "silu"))
            end, before = torch.cat([before, piece], 2)[..., piece.shape[2] :], 0 * states[:1]
        rows.append(torch.cat(parts, 2))
        ends.append(end)
    expected = torch.cat(rows), torch.cat(ends)
    torch.testing.assert_close((y, last), expected, **CLOSE)
    grads = [
        torch.autograd.grad(a.square().sum() + b.sin().sum(), leaves, materialize_grads=True)
        for a, b in ((y, last), expected)
    ]
    torch.testing.assert_close(*grads, **CLOSE)


@pytest.mark.parametrize("ids", [[-1, -1, 0, 0, 0, -1, 1, 1, -1], [-1] * 9, [0, 0, 0, -1, -2, 4, 4, 4, 4]])
def test_padding_gives_zero_and_feeds_nothing(ids):
    """With a bias, whose outputs are not 0, and a NaN in the padding, which shows what it reaches."""
    x, weight, bias, states = operands()
    ids = torch.tensor(ids).expand(3, 9)
    padding = ids[0] < 0
    leaves = [t.requires_grad_() for t in (x.masked_fill(padding, torch.nan), weight, bias, states)]
    y, last = causal_conv1d_fn(*leaves[:3], ids, states, True, activation="silu")
    assert not y[..., padding].any()
    assert not (padding[-1] and last.any())
    for grad in torch.autograd.grad(y.sum() + last.sum(), leaves):
        assert grad.isfinite().all()
        assert grad.shape[-1] != 9 or not grad[..., padding].any()
    for run in ids[0][~padding].unique():
        here = ids[0] == run
        before = states if here[0] else 0 * states
        torch.testing.assert_close(y[..., here], plain(x[..., here], weight, bias, before, "silu"), **CLOSE)


def test_one_id_is_none():
    x, weight, bias, _ = operands()
    ids = torch.zeros(3, 9, dtype=torch.int32)
    torch.testing.assert_close(
        causal_conv1d_fn(x, weight, bias, ids), causal_conv1d_fn(x, weight, bias), **CLOSE
    )
    empty = causal_conv1d_fn(x[..., :0], weight, bias, ids[:, :0])
    assert empty.shape == (3, 4, 0)


@pytest.mark.parametrize("pieces", [[1] * 9, [2, 3, 4], [1, 7, 1]])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_updates_are_the_whole(activation, size, pieces):
    x, weight, bias, _ = operands()
    state = torch.randn(3, 4, size, dtype=torch.float64)
    everything = torch.cat([state, x], 2)
    expected = plain(x, weight, bias, state[..., size - 3 :], activation)
    found = []
    for piece in x.split(pieces, 2):
        piece = piece[..., 0] if piece.shape[2] == 1 else piece
        y = causal_conv1d_update(piece, state, weight, bias, activation)
        assert y.shape == piece.shape
        found.append(y[..., None] if y.ndim == 2 else y)
    torch.testing.assert_close(torch.cat(found, 2), expected, **CLOSE)
    assert torch.equal(state, everything[..., 9:])


@pytest.mark.parametrize("pieces", [[1] * 9, [2, 3, 4], [1, 8]])
@pytest.mark.parametrize("size", [3, 5])
def test_a_circular_state_holds_step_t_at_t_mod_size(size, pieces):
    x, weight, bias, states = operands()
    had = torch.tensor([0, 1, 11], dtype=torch.int32)
    state = torch.full((3, 4, size), 9.0, dtype=torch.float64)
    for row, t in enumerate(had.tolist()):
        for back in range(1, 4):
            state[row, :, (t - back) % size] = states[row, :, 3 - back]
    expected, found = plain(x, weight, bias, states, None), []
    for piece in x.split(pieces, 2):
        found.append(causal_conv1d_update(piece, state, weight, bias, cache_seqlens=had))
        had = had + piece.shape[2]
    torch.testing.assert_close(torch.cat(found, 2), expected, **CLOSE)
    for row, t in enumerate(had.tolist()):
        for back in range(1, 4):
            assert torch.equal(state[row, :, (t - back) % size], x[row, :, 9 - back])


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("indices", [[4, 0, 2], [-1, 0, 4], [3, -1, -1], [-1, -1, -1]])
def test_states_are_picked_by_index_and_padding_touches_none(indices, circular):
    x, weight, bias, _ = operands(length=1)
    pool = torch.randn(6, 4, 3, dtype=torch.float64)
    kept, had = pool.clone(), torch.tensor([3, 3, 3], dtype=torch.int32) if circular else None
    rows = torch.tensor(indices, dtype=torch.int32)
    y = causal_conv1d_update(x[..., 0], pool, weight, bias, "silu", had, rows)
    for i, row in enumerate(indices):
        if row < 0:
            assert not y[i].any()
            continue
        one, count = kept[row : row + 1].clone(), None if had is None else had[:1]
        expected = causal_conv1d_update(x[i : i + 1, :, 0], one, weight, bias, "silu", count)
        torch.testing.assert_close(y[i : i + 1], expected, **CLOSE)
        assert torch.equal(pool[row : row + 1], one)
    others = [row for row in range(6) if row not in indices]
    assert torch.equal(pool[others], kept[others])


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("circular", [False, True])
def test_an_update_is_differentiable_but_for_its_states(circular, length):
    x, weight, bias, states = operands(length=length)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    expected = torch.autograd.grad(plain(x, weight, bias, states.clone(), "silu").square().sum(), leaves)
    had = torch.tensor([3, 6, 0], dtype=torch.int32) if circular else None
    y = causal_conv1d_update(x, states, weight, bias, "silu", had)
    assert not states.requires_grad
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), leaves), expected, **CLOSE)


def test_signatures_are_the_originals():
    whole = "x weight bias seq_idx initial_states return_final_states final_states_out activation"
    update = "x conv_state weight bias activation cache_seqlens conv_state_indices"
    assert list(inspect.signature(causal_conv1d_fn).parameters) == whole.split()
    assert list(inspect.signature(causal_conv1d_update).parameters) == update.split()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_idx": torch.zeros(2, 9, dtype=torch.int32)}, r"seq_idx has shape \(2, 9\), expected \(3, 9\)"),
        ({"activation": "relu"}, "activation is 'relu'"),
        ({"initial_states": torch.zeros(3, 4, 2)}, "initial_state has shape"),
    ],
)
def test_refusals(change, message):
    x, weight, *_ = (t.float() for t in operands())
    with pytest.raises(ValueError, match=message):
        causal_conv1d_fn(**{"x": x, "weight": weight, **change})


@pytest.mark.parametrize("shape", [(3, 4, 2), (2, 4, 3), (3, 5, 3)])
def test_an_update_refuses_states_that_do_not_fit(shape):
    x, weight, *_ = operands()
    with pytest.raises(ValueError, match="conv_state has shape"):
        causal_conv1d_update(x[..., 0], torch.zeros(shape, dtype=torch.float64), weight)

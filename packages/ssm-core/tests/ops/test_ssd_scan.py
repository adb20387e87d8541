"""ssd_scan: against the time loop in double precision, its derivative, registration, extreme decays, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

from ssm_core.opkit.dispatch import resolve
from ssm_core.ops.ssd_scan import on_torch, ssd_scan

OPS = torch.ops.ssm_core
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")


def operands(
    dtype: torch.dtype,
    length: int,
    *,
    packed: bool = False,
    sizes: tuple[int, int, int, int] = (4, 3, 5, 2),
    wide_skip: bool = True,
) -> tuple[list[Tensor], Tensor | None]:
    """(tensors in the order of NAMES, cu_seqlens) for H, P, N, G; a pack has empty and one-step sequences."""
    generator = torch.Generator().manual_seed(length)
    H, P, N, G = sizes
    offsets = [0, 0, min(1, length), max(min(1, length), length // 3), length, length]
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32) if packed else None
    batch, rows = (1, len(offsets) - 1) if packed else (2, 2)
    projection, wide = (batch, length, G, N), (batch, length, H, P)
    shapes = [wide, (batch, length, H), (H,), projection, projection, (H, P) if wide_skip else (H,), wide]
    shapes += [(H,), (rows, H, P, N)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    tensors[2] = -tensors[2].abs()
    return tensors, cu_seqlens


def full(*tensors: Tensor, **options) -> tuple[Tensor, Tensor]:
    """ssd_scan of everything it takes."""
    options = {"chunk_size": 16, "dt_softplus": True, **options}
    return ssd_scan(**dict(zip(NAMES, tensors, strict=True)), **options)


def plain(*tensors: Tensor, **options) -> tuple[Tensor, Tensor]:
    """ssd_scan of what it cannot do without; dt made positive."""
    x, dt, A, B, C = tensors
    return ssd_scan(x, dt.square(), A, B, C, **options)


@pytest.mark.parametrize("length", [0, 1, 2, 37, 101])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_time_loop(dtype, packed, length, results, oracle, agree):
    tensors, cu_seqlens = operands(dtype, length, packed=packed)
    scan = partial(full, cu_seqlens=cu_seqlens)
    got = results(partial(scan, backend="torch"), tensors)
    assert {x.dtype for x in got} == {dtype}
    agree(got, oracle(partial(scan, backend="reference"), tensors))


@pytest.mark.parametrize("chunk_size", [1, 15, 64, 1000])
@pytest.mark.parametrize("packed", [False, True])
def test_chunks_of_any_size(chunk_size, packed, results, oracle, agree):
    tensors, cu_seqlens = operands(torch.float32, 64, packed=packed)
    expected = oracle(partial(full, cu_seqlens=cu_seqlens, backend="reference"), tensors)
    agree(
        results(partial(full, cu_seqlens=cu_seqlens, chunk_size=chunk_size, backend="torch"), tensors),
        expected,
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_few_chunks_at_a_time(packed, monkeypatch, results, oracle, agree):
    """As long sequences have it: every chunk's matrices made and used before the next one's."""
    monkeypatch.setattr(on_torch, "_SLAB", 1500)
    tensors, cu_seqlens = operands(torch.float32, 101, packed=packed)
    scan = partial(full, cu_seqlens=cu_seqlens)
    agree(
        results(partial(scan, backend="torch"), tensors), oracle(partial(scan, backend="reference"), tensors)
    )


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 2, 4, 1), (3, 17, 1, 3), (6, 1, 9, 3)])
@pytest.mark.parametrize("wide_skip", [False, True])
def test_any_number_of_heads_groups_and_states(sizes, wide_skip, results, oracle, agree):
    tensors, _ = operands(torch.float32, 19, sizes=sizes, wide_skip=wide_skip)
    agree(
        results(partial(full, backend="torch"), tensors), oracle(partial(full, backend="reference"), tensors)
    )


@pytest.mark.parametrize("packed", [False, True])
def test_without_what_is_optional(packed, results, oracle, agree):
    tensors, cu_seqlens = operands(torch.float32, 23, packed=packed)
    scan = partial(plain, cu_seqlens=cu_seqlens)
    expected = oracle(partial(scan, backend="reference"), tensors[:5])
    agree(results(partial(scan, backend="torch"), tensors[:5]), expected)


@pytest.mark.parametrize("lengths", [[1] * 40, [3, 0, 5] * 5, [0, 0], [0], [60, 1, 1, 1, 70]])
def test_packs_of_many_short_sequences(lengths, results, oracle, agree):
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
    tensors, _ = operands(torch.float32, sum(lengths))
    tensors = [x[:1] if x.ndim > 2 else x for x in tensors[:-1]]
    tensors.append(torch.randn(len(lengths), 4, 3, 5))
    scan = partial(full, cu_seqlens=cu_seqlens)
    agree(
        results(partial(scan, backend="torch"), tensors), oracle(partial(scan, backend="reference"), tensors)
    )


def test_a_pack_of_nothing():
    tensors, _ = operands(torch.float32, 0)
    tensors = [
        x[:0] if name == "initial_state" else x[:1] if x.ndim > 2 else x
        for name, x in zip(NAMES, tensors, strict=True)
    ]
    y, last = full(*tensors, cu_seqlens=torch.zeros(1, dtype=torch.int32), backend="torch")
    assert (y.shape, last.shape) == ((1, 0, 4, 3), (0, 4, 3, 5))


@pytest.mark.parametrize("shape", [(0, 5, 4, 3, 6), (2, 5, 0, 3, 6), (2, 5, 4, 0, 6), (2, 5, 4, 3, 0)])
@pytest.mark.parametrize("wide_skip", [False, True])
def test_sizes_of_zero(shape, wide_skip):
    B, L, H, P, N = shape
    x, dt, state = torch.randn(B, L, H, P), torch.rand(B, L, H), torch.randn(B, H, P, N)
    leaves = [
        x,
        dt,
        -torch.rand(H),
        *torch.randn(2, B, L, 1, N),
        torch.ones((H, P) if wide_skip else H),
        state,
    ]
    leaves = [x.requires_grad_() for x in leaves]
    found = []
    for backend in ("torch", "reference"):
        y, last = ssd_scan(*leaves[:5], D=leaves[5], initial_state=leaves[6], backend=backend)
        found.append([y, last, *torch.autograd.grad(y.sum() + last.sum(), leaves)])
    torch.testing.assert_close(*found)


def test_the_reference_is_the_recurrence():
    halving = torch.tensor([0.5]).log()
    x, one = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    state = torch.full((1, 1, 1, 1), 8.0)
    y, last = ssd_scan(
        x,
        torch.ones(1, 3, 1),
        halving,
        one,
        2 * one,
        D=torch.ones(1),
        initial_state=state,
        backend="reference",
    )
    torch.testing.assert_close(y.flatten(), torch.tensor([11.0, 11.0, 16.5]))
    torch.testing.assert_close(last.flatten(), torch.tensor([6.25]))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients(backend, packed):
    tensors, cu_seqlens = operands(torch.float64, 6, packed=packed, sizes=(2, 2, 2, 1))
    tensors = [x.requires_grad_() for x in tensors]
    assert gradcheck(partial(full, chunk_size=4, cu_seqlens=cu_seqlens, backend=backend), tensors)


def test_no_second_derivative():
    tensors = [x.requires_grad_() for x in operands(torch.float64, 5)[0]]
    (grad,) = torch.autograd.grad(full(*tensors, backend="torch")[0].sum(), tensors[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_single_precision(dtype):
    tensors = [x.to(dtype) for x in operands(torch.float32, 50)[0]]
    y, last = full(*tensors, backend="torch")
    expected, expected_last = full(*(x.float() for x in tensors), backend="torch")
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    assert torch.equal(y, expected.to(dtype))
    assert torch.equal(last, expected_last)
    leaves = [x.requires_grad_() for x in tensors]
    full(*leaves, backend="torch")[0].float().square().sum().backward()
    assert {x.grad.dtype for x in leaves} == {dtype}


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_mixed_dtypes_take_the_widest(backend):
    tensors = operands(torch.float32, 5)[0]
    tensors[7] = tensors[7].double()
    y, last = full(tensors[0].bfloat16(), *tensors[1:], backend=backend)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float64)


def test_autocast_changes_nothing():
    tensors, _ = operands(torch.float32, 40)
    expected = full(*tensors, backend="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = full(*tensors, backend="torch")
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


@pytest.mark.parametrize("steepest", [1.0, 1e2, 1e4])
def test_decays_from_none_to_all_at_once(steepest, results, oracle, agree):
    """Fast and slow steps, side by side: what a fast one leaves of the sum must not round the slow ones away."""
    tensors, _ = operands(torch.float32, 130)
    x, dt, _, B, C = tensors[:5]
    generator = torch.Generator().manual_seed(1)
    dt = torch.where(torch.rand(dt.shape, generator=generator) < 0.1, steepest, 0.05 * dt.abs())
    dt = torch.where(torch.rand(dt.shape, generator=generator) < 0.1, 0.0, dt)

    def scan(
        x: Tensor, dt: Tensor, B: Tensor, C: Tensor, state: Tensor, *, backend: str
    ) -> tuple[Tensor, Tensor]:
        return ssd_scan(x, dt, -torch.ones(4), B, C, initial_state=state, backend=backend)

    inputs = [x, dt, B, C, tensors[8]]
    got = results(partial(scan, backend="torch"), inputs)
    assert all(x.isfinite().all() for x in got)
    agree(got, oracle(partial(scan, backend="reference"), inputs))


def test_growth_is_allowed(results, oracle, agree):
    tensors, _ = operands(torch.float32, 70)
    tensors[2] = 0.05 * torch.randn(4, generator=torch.Generator().manual_seed(0))
    agree(
        results(partial(full, backend="torch"), tensors), oracle(partial(full, backend="reference"), tensors)
    )


def test_one_sequence_of_nan_leaves_the_others(agree):
    tensors, cu_seqlens = operands(torch.float32, 60, packed=True)
    expected = full(*tensors, cu_seqlens=cu_seqlens, backend="torch")
    x = tensors[0].clone()
    x[:, 1:20] = float("nan")
    y, last = full(x, *tensors[1:], cu_seqlens=cu_seqlens, backend="torch")
    assert y[:, 1:20].isnan().all()
    agree([y[:, 20:], last[3:]], [expected[0][:, 20:].double(), expected[1][3:].double()])


def test_outputs_alias_no_input():
    for length in (0, 1, 40):
        tensors, _ = operands(torch.float32, length)
        kept = [x.clone() for x in tensors]
        for out in plain(*tensors[:5], initial_state=tensors[8], backend="torch"):
            out.zero_()
        assert all(torch.equal(x, y) for x, y in zip(tensors, kept, strict=True))


def permuted(x: Tensor) -> Tensor:
    """The same values, laid out with time innermost."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if x.ndim > 2 else x


# opcheck itself looks at .grad of copies of its inputs.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("layout", [lambda x: x, permuted], ids=["plain", "permuted"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_opcheck(layout, packed, gradients):
    tensors, cu_seqlens = operands(torch.float64, 9, packed=packed, sizes=(2, 2, 3, 1))
    tensors = [layout(x) for x in (*tensors[:7], tensors[8])]
    y, last = OPS.ssd_scan(*tensors, cu_seqlens, 4, "torch")
    opcheck(OPS.ssd_scan.default, (*(x.requires_grad_(gradients) for x in tensors), cu_seqlens, 4, "torch"))
    once = [x.detach() for x in tensors]  # its backward refuses to be differentiated
    opcheck(OPS.ssd_scan_backward.default, (*once, cu_seqlens, layout(y.detach()), last.detach(), 4, "torch"))
    required = (*once[:5], None, None, None, None)
    opcheck(
        OPS.ssd_scan.default,
        (*(None if x is None else x[:1] if x.ndim > 1 else x for x in required), 4, "torch"),
    )


def loss(function: Callable, *tensors: Tensor, **options) -> Tensor:
    return sum(x.square().sum() for x in function(*tensors, **options))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(dynamic):
    """Without naming a backend: what runs is chosen when it runs."""
    torch.compiler.reset()
    compiled = torch.compile(partial(loss, full), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (5, 18, 33) if dynamic else (5,):
        tensors = operands(torch.float64, length)[0]
        eager, traced = ([x.clone().requires_grad_() for x in tensors] for _ in range(2))
        loss(full, *eager).backward()
        compiled(*traced).backward()
        torch.testing.assert_close([x.grad for x in traced], [x.grad for x in eager])


def test_func_grad_and_vmap():
    tensors, _ = operands(torch.float64, 7, sizes=(2, 2, 3, 1))
    gradients = torch.func.grad(partial(loss, full, backend="torch"), tuple(range(len(NAMES))))
    leaves = [x.clone().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(loss(full, *leaves, backend="torch"), leaves)
    torch.testing.assert_close(gradients(*tensors), expected)
    stacked = [torch.stack([x, 0.5 * x]) for x in tensors]
    per_row = torch.vmap(gradients)(*stacked)
    for i in range(2):
        torch.testing.assert_close([x[i] for x in per_row], list(gradients(*(x[i] for x in stacked))))


def test_vmap_over_offsets_is_refused():
    tensors, _ = operands(torch.float64, 4)
    tensors = [x[:1] if x.ndim > 2 else x for x in tensors]
    with pytest.raises(ValueError, match="cannot map over cu_seqlens"):
        torch.vmap(lambda offsets: full(*tensors, cu_seqlens=offsets, backend="torch"))(
            torch.tensor([[0, 4], [0, 4]])
        )


def test_the_default_on_cpu_is_the_matrix_form():
    assert resolve("ssd_scan", "", torch.device("cpu")) == "torch"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": torch.ones(2, 5, 4)},
            r"ssd_scan: x and B have shapes \(2, 5, 4\) and \(2, 5, 2, 5\), expected",
        ),
        ({"dt": torch.ones(2, 5)}, r"dt has shape \(2, 5\), expected \(2, 5, 4\), that is \(B, L, H\)"),
        ({"A": torch.ones(3)}, r"A has shape \(3,\), expected \(4,\)"),
        ({"B": torch.ones(2, 5, 3, 5)}, "B has 3 groups, expected a divisor of the 4 heads"),
        ({"B": torch.ones(2, 4, 2, 5)}, r"B has shape \(2, 4, 2, 5\), expected \(2, 5, 2, 5\)"),
        ({"C": torch.ones(2, 5, 1, 5)}, r"C has shape \(2, 5, 1, 5\), expected \(2, 5, 2, 5\)"),
        ({"D": torch.ones(3)}, r"D has shape \(3,\), expected \(4,\) or \(4, 3\)"),
        ({"z": torch.ones(2, 5, 4)}, r"z has shape \(2, 5, 4\), expected \(2, 5, 4, 3\)"),
        ({"dt_bias": torch.ones(1)}, r"dt_bias has shape \(1,\), expected \(4,\)"),
        ({"initial_state": torch.ones(2, 4, 5, 3)}, r"initial_state has shape .*, expected \(2, 4, 3, 5\)"),
        ({"A": torch.ones(4, dtype=torch.complex64)}, "A is complex"),
        ({"x": torch.ones(2, 5, 4, 3, dtype=torch.int64)}, "x has dtype torch.int64"),
        ({"z": torch.ones(2, 5, 4, 3, device="meta")}, "z is on meta"),
        ({"chunk_size": 0}, "chunk_size is 0, expected a positive integer"),
        ({"cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}, "the batch must be 1, not 2"),
        ({"backend": "cuda"}, "backend is 'cuda'; choose one of reference, torch, numba, triton"),
    ],
)
def test_refusals_name_the_argument(change, message):
    x, B = torch.ones(2, 5, 4, 3), torch.ones(2, 5, 2, 5)
    arguments = {"x": x, "dt": torch.ones(2, 5, 4), "A": -torch.ones(4), "B": B, "C": B, **change}
    with pytest.raises(ValueError, match=message):
        ssd_scan(**arguments)


@pytest.mark.parametrize("offsets", [[0, 3, 2, 5], [1, 5], [0, 4], [0, 9]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    tensors = [x[:1] if x.ndim > 2 else x for x in operands(torch.float32, 5)[0][:5]]
    with pytest.raises(ValueError, match="climb from 0 to the packed length 5"):
        plain(*tensors, cu_seqlens=torch.tensor(offsets, dtype=torch.int32), backend="torch")


def test_numba_is_refused_by_name():
    with pytest.raises(RuntimeError, match="ssd_scan has no numba form"):
        plain(*operands(torch.float32, 5)[0][:5], backend="numba")

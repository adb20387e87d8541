"""What must hold of the Cauchy product: nodes apart, linearity, symmetries, strides, repeatability."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssm_core.ops import available_backends
from ssm_core.ops.cauchy import cauchy

BACKENDS = [name for name, status in available_backends("cauchy").items() if status == "ok"]


@pytest.fixture(autouse=True, scope="module")
def _poisoned_memory():
    """torch.empty and its kin hand out NaN, so reading what was never written shows."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


@dataclass(frozen=True)
class Product:
    """Operands of a cauchy, and how to run it."""

    v: Tensor
    z: Tensor
    w: Tensor
    conj: bool
    backend: str

    def __call__(self) -> Tensor:
        return cauchy(self.v, self.z, self.w, conj=self.conj, backend=self.backend)

    def leaves(self) -> list[Tensor]:
        return [x.requires_grad_() for x in (self.v, self.z, self.w)]


@st.composite
def products(draw: st.DrawFn) -> Product:
    dtype = draw(st.sampled_from([torch.complex64, torch.complex128]))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    shape = H, _ = draw(st.integers(1, 4)), draw(st.sampled_from([1, 3, 16, 19]))
    F = draw(st.sampled_from([0, 1, 2, 5, 16, 17, 64, 101]))
    w = torch.complex(-0.1 - torch.rand(shape).double(), 6 * torch.rand(shape).double()).to(dtype)
    z = 1j * 6 * torch.rand((H, F) if draw(st.booleans()) else F, dtype=torch.float64)
    v = torch.randn(shape, dtype=dtype)
    return Product(v, z.to(dtype), w, draw(st.booleans()), draw(st.sampled_from(BACKENDS)))


def check_close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    if expected.numel():
        tolerance = 1e-12 if got.dtype in (torch.float64, torch.complex128) else 1e-5
        assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0)


def check_gradients(got: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    """Of a fixed linear function of the output."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.complex128).to(expected.dtype)
    pairs = (
        torch.autograd.grad((x * weights).real.sum(), leaves, materialize_grads=True) for x in (got, expected)
    )
    for x, y in zip(*pairs, strict=True):
        check_close(x, y)


@given(products())
def test_backends_agree(product: Product) -> None:
    leaves = product.leaves()
    v, z, w = (x.to(torch.complex128) for x in leaves)
    got, expected = product(), Product(v, z, w, product.conj, "reference")()
    check_close(got, expected)
    check_gradients(got, expected, leaves)


@given(products(), st.data())
def test_nodes_split_anywhere_are_whole(product: Product, data: st.DataObject) -> None:
    leaves = product.leaves()
    cut = data.draw(st.integers(0, product.z.shape[-1]))
    parts = [replace(product, z=z)() for z in (product.z[..., :cut], product.z[..., cut:])]
    joined, whole = torch.cat(parts, 1), product()
    check_close(joined, whole)
    check_gradients(joined, whole, leaves)


@given(products(), st.data())
def test_states_split_anywhere_add_up(product: Product, data: st.DataObject) -> None:
    leaves = product.leaves()
    cut = data.draw(st.integers(0, product.v.shape[1]))
    cuts = slice(0, cut), slice(cut, None)
    first, second = (replace(product, v=product.v[:, part], w=product.w[:, part])() for part in cuts)
    joined, whole = first + second, product()
    check_close(joined, whole)
    check_gradients(joined, whole, leaves)


@given(products())
def test_shared_nodes_are_nodes_of_every_row(product: Product) -> None:
    spread = replace(product, z=product.z.expand(len(product.v), product.z.shape[-1]))
    leaves = product.leaves()
    got, expected = spread(), product()
    check_close(got, expected)
    check_gradients(replace(spread, z=product.z.expand(spread.z.shape))(), expected, leaves)


@given(products())
def test_linear_in_the_residues_over_the_reals(product: Product) -> None:
    v = torch.randn_like(product.v)
    mixed = replace(product, v=2 * product.v - 3 * v)()
    check_close(mixed, 2 * product() - 3 * replace(product, v=v)())


@given(products())
def test_the_pair_is_the_sum_over_both_halves(product: Product) -> None:
    v, w = (torch.cat([x, x.conj()], 1) for x in (product.v, product.w))
    check_close(replace(product, v=v, w=w, conj=False)(), replace(product, conj=True)())


@given(products())
def test_a_pair_at_the_conjugate_node_is_the_conjugate(product: Product) -> None:
    product = replace(product, conj=True)
    check_close(replace(product, z=product.z.conj())(), product().conj())


@given(products())
def test_permuting_rows_and_nodes_permutes_the_output_and_permuting_states_does_not(product: Product) -> None:
    rows, states = (torch.randperm(n) for n in product.v.shape)
    nodes = torch.randperm(product.z.shape[-1])
    z = product.z[rows] if product.z.ndim == 2 else product.z
    permuted = replace(product, v=product.v[rows][:, states], w=product.w[rows][:, states], z=z[..., nodes])
    check_close(permuted(), product()[rows][:, nodes])


def scattered(x: Tensor) -> Tensor:
    """The same values at other strides: axes reversed in memory, every second element, a lazily conjugated view."""
    reverse = tuple(reversed(range(x.ndim)))
    x = x.permute(reverse).contiguous().permute(reverse)
    x = torch.stack([x, torch.full_like(x, float("nan"))], -1)[..., 0]
    return x.conj().resolve_conj().conj()


@given(products())
def test_strides_do_not_matter(product: Product) -> None:
    leaves = product.leaves()
    v, z, w = (scattered(x) for x in leaves)
    strided, plain = Product(v, z, w, product.conj, product.backend)(), product()
    check_close(strided, plain)
    check_gradients(strided, plain, leaves)


@given(products())
def test_two_runs_are_the_same_bits(product: Product) -> None:
    leaves, runs = product.leaves(), []
    for y in (product(), product()):
        runs.append([y, *torch.autograd.grad((y * y.conj()).real.sum(), leaves, materialize_grads=True)])
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))

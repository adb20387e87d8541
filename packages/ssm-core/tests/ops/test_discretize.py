"""Discretisation: values against arbitrary precision, derivatives through the point where the formula is 0 / 0."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ssm_core.discretize import bilinear, discretize, phi_1, phi_1_slope, zoh

mpmath = pytest.importorskip("mpmath")  # comes with torch, by way of sympy

POINTS = [
    0,
    1e-300,
    1e-12j,
    1e-8 + 1e-8j,
    -1e-4,
    0.099 + 0.01j,
    -0.101j,
    -0.3 + 2j,
    -1 - 6.2831853j,
    -40 + 1e3j,
    -700,
    2,
]


def exact_phi_1(z: complex) -> complex:
    with mpmath.workdps(40):
        return complex(mpmath.expm1(z) / z) if z else 1.0


def exact_slope(z: complex) -> complex:
    with mpmath.workdps(60):
        z = mpmath.mpmathify(z)
        return complex((mpmath.exp(z) - mpmath.expm1(z) / z) / z) if abs(z) > 1e-12 else 0.5 + complex(z) / 3


@pytest.mark.parametrize(
    ("function", "exact", "dtype", "tolerance"),
    [
        (phi_1, exact_phi_1, torch.complex128, 1e-13),
        (phi_1, exact_phi_1, torch.complex64, 1e-6),
        (phi_1_slope, exact_slope, torch.complex128, 1e-13),
        (phi_1_slope, exact_slope, torch.complex64, 2e-6),  # 1.1e-6 where its series ends
    ],
)
def test_phi_1_and_its_slope_are_accurate_everywhere(function, exact, dtype, tolerance):
    z = torch.tensor(POINTS, dtype=dtype)
    expected = torch.tensor([exact(complex(x)) for x in z.tolist()], dtype=torch.complex128)
    error = (function(z).to(torch.complex128) - expected).abs() / expected.abs()
    assert error.max() < tolerance


def test_the_derivative_of_phi_1_is_its_slope():
    for dtype, tolerance in ((torch.complex128, 1e-12), (torch.complex64, 1e-4)):
        z = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
        (grad,) = torch.autograd.grad(phi_1(z), z, torch.ones_like(z))
        slope = phi_1_slope(z.detach())
        assert ((grad.conj() - slope).abs() / slope.abs()).max() < tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("rule", [zoh, bilinear])
def test_gradients_also_where_the_product_is_zero(rule, dtype):
    a = torch.tensor([0, -1e-9, -1e-3, -0.2, -0.9], dtype=dtype)
    a = a * (1 + 2j) if dtype.is_complex else a
    a, dt = (
        a.requires_grad_(),
        torch.tensor([[0.0], [1e-7], [0.4], [3.0]], dtype=torch.float64, requires_grad=True),
    )
    assert gradcheck(rule, (a, dt))
    assert gradgradcheck(rule, (a, dt))


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_no_gap_does_nothing_and_a_zero_eigenvalue_integrates(method, dtype):
    a_bar, gain = discretize(torch.tensor([-2.0, 0.0], dtype=dtype), torch.tensor([[0.0], [0.25]]), method)
    assert a_bar.dtype == gain.dtype == dtype
    assert a_bar[0].tolist() == [1, 1]
    assert gain[0].tolist() == [0, 0]
    assert (a_bar[1, 1], gain[1, 1]) == (1, 0.25)


def test_both_rules_agree_to_second_order():
    a, dt = torch.tensor(-0.7 + 2j, dtype=torch.complex128), torch.tensor([0.1, 0.05], dtype=torch.float64)
    errors = [(x - y).abs() for x, y in zip(zoh(a, dt), bilinear(a, dt), strict=True)]
    for error in errors:
        assert 6 < error[0] / error[1] < 10  # third-order local error: half the gap, an eighth of the error


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'euler'; choose one of 'zoh', 'bilinear'"):
        discretize(torch.ones(1), torch.ones(1), "euler")

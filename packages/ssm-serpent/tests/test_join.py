"""Branches side by side: the values of a concatenation, and gradients that nobody shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssm_serpent.join import join


@pytest.fixture
def parts() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, h, dtype=torch.float64, requires_grad=True) for h in (1, 4, 2)]


def test_joined_is_concatenated_to_any_order_of_derivative(parts):
    torch.testing.assert_close(join(parts), torch.cat(parts, -1), rtol=0, atol=0)
    assert join(parts[:1]) is parts[0]

    def cubed(*given: torch.Tensor) -> torch.Tensor:
        return join(given) ** 3

    assert torch.autograd.gradcheck(cubed, parts)
    assert torch.autograd.gradgradcheck(cubed, parts)


def test_the_gradient_of_a_part_is_no_view_of_the_whole(parts):
    whole = torch.randn(2, 3, 7, dtype=torch.float64)
    grads = torch.autograd.grad(join(parts), parts, whole)
    for part, expected in zip(grads, whole.split([1, 4, 2], -1), strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=0)
        assert part.is_contiguous()
        assert part.untyped_storage().nbytes() == part.numel() * 8


def test_compiled_and_mapped(parts):
    def doubled(*given: torch.Tensor) -> torch.Tensor:
        return join(given) * 2

    compiled: Any = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    mapped: Any = torch.vmap(doubled)
    for function in (compiled, mapped):
        torch.testing.assert_close(function(*parts), 2 * torch.cat(parts, -1))

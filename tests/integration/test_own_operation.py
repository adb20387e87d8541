"""The operation of docs/how-to/own-operation.md works as the page says: written down from there, imported and tried."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ssm_core.opkit import dispatch
from ssm_core.ops import available_backends

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-operation.md"

Leak = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def leak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leak]:
    root = tmp_path_factory.mktemp("mine")
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        path = root / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block, encoding="utf-8")
    sys.path.insert(0, str(root))
    yield importlib.import_module("ssm_mine.ops.leak").leak
    sys.path.remove(str(root))
    for name in [name for name in sys.modules if name.partition(".")[0] == "ssm_mine"]:
        del sys.modules[name]
    del dispatch.OPERATIONS["leak"]


def operands(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, rate = torch.randn(2, 5, 3, dtype=dtype), torch.rand(3, dtype=dtype)
    return x.requires_grad_(), rate.requires_grad_()


def test_it_is_the_reference(leak: Leak) -> None:
    found = {}
    for backend in ("torch", "reference"):
        x, rate = operands()
        y = leak(x, rate, backend=backend)
        found[backend] = [y, *torch.autograd.grad(y.sin().sum(), (x, rate))]
    torch.testing.assert_close(found["torch"], found["reference"], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck looks at it
def test_torch_knows_it(leak: Leak) -> None:
    assert torch.autograd.gradcheck(lambda *given: leak(*given, backend="torch"), operands())
    torch.library.opcheck(torch.ops.ssm_mine.leak.default, (*operands(), "torch"))
    compiled = torch.compile(leak, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*operands()), leak(*operands()))


def test_it_is_listed_and_refuses(leak: Leak) -> None:
    assert available_backends("leak") == {
        "reference": "ok",
        "torch": "ok",
        "numba": "leak has no numba form",
        "triton": "leak has no triton form",
    }
    with pytest.raises(ValueError, match="leak: rate has shape"):
        leak(torch.ones(1, 2, 3), torch.ones(2))
    assert leak(*operands(torch.float32)).dtype == torch.float32

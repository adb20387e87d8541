"""Choosing a backend: the default, the environment, refusals, a machine without numba, threads and forks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from ssm_core.opkit import dispatch
from ssm_core.ops import available_backends, diagonal_ssm, linear_scan

NO_TRITON = "triton is not installed|Triton kernels run on CUDA tensors, these are on cpu"

not_interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="Triton kernels run here, in the interpreter"
)
needs_numba = pytest.mark.skipif(bool(dispatch.numba_problem()), reason="numba does not run here")


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if numba were not installed."""
    # Not the forms of the operations themselves: that there is one is remembered for the rest of the process.
    for module in ("ssm_core.opkit.numba_runtime", "numba"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr("ssm_core.opkit.numba_runtime", raising=False)
    dispatch.numba_problem.cache_clear()
    yield
    monkeypatch.undo()
    dispatch.numba_problem.cache_clear()


def scan(backend: str | None = None) -> torch.Tensor:
    return linear_scan(torch.tensor([0.5]), torch.ones(1, 3, 1), backend=backend)[0]


@pytest.mark.parametrize("op", ["linear_scan", "diagonal_ssm"])
def test_doctor_sees_what_runs(op):
    status = available_backends(op)
    assert list(status) == ["reference", "torch", "numba", "triton"]
    assert status["reference"] == status["torch"] == "ok"
    if os.environ.get("TRITON_INTERPRET") != "1":
        assert re.match(NO_TRITON, status["triton"])


def test_doctor_refuses_an_unknown_operation():
    with pytest.raises(ValueError, match=r"no operation is called 'cumsum'; there are .*linear_scan"):
        available_backends("cumsum")


@needs_numba
def test_doctor_sees_numba():
    assert available_backends("diagonal_ssm")["numba"] == "ok"
    assert dispatch.resolve("linear_scan", "", torch.device("cpu")) == "numba"


def test_a_backend_that_gives_wrong_values_is_not_ok(monkeypatch):
    wrong = dispatch.Registered(lambda name: torch.ones(1) * (name == "torch"), dispatch.HOME)
    monkeypatch.setitem(dispatch.OPERATIONS, "linear_scan", wrong)
    assert available_backends("linear_scan")["torch"] == "it ran but gave wrong values"


def test_a_name_is_registered_by_one_package():
    with pytest.raises(
        ValueError, match=r"other\.ops registers the operation 'linear_scan', which ssm_core\.ops has"
    ):
        dispatch.register("linear_scan", torch.ones, "other.ops")


@pytest.mark.usefixtures("without_numba")
def test_without_numba_torch_takes_over_and_a_request_is_refused():
    assert dispatch.resolve("linear_scan", "", torch.device("cpu")) == "torch"
    assert scan().flatten().tolist() == [1.0, 1.5, 1.75]
    assert "not installed" in available_backends("linear_scan")["numba"]
    with pytest.raises(
        RuntimeError,
        match=r"backend 'numba' cannot run: numba is not installed .*; uv pip install 'ssm-core\[cpu\]",
    ):
        scan("numba")


@not_interpreted
@pytest.mark.filterwarnings("ignore:triton is installed but")
def test_requests_that_cannot_be_met_are_refused():
    with pytest.raises(
        RuntimeError, match=f"backend 'triton' cannot run: ({NO_TRITON}).*; leave the argument `backend` out"
    ):
        scan("triton")
    with pytest.raises(RuntimeError, match="numba kernels run on CPU tensors, these are on cuda"):
        dispatch.resolve("linear_scan", "numba", torch.device("cuda"))


@pytest.mark.filterwarnings("ignore:triton is installed but")
def test_an_operation_may_lack_a_form(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(dispatch, "_exists", lambda module: not module.endswith("on_triton"))
    with pytest.raises(RuntimeError, match="linear_scan has no triton form"):
        dispatch.resolve("linear_scan", "triton", cuda)
    assert dispatch.resolve("linear_scan", "", cuda) == "torch"


@pytest.mark.filterwarnings("ignore:triton is installed but")
def test_the_default_on_a_gpu_is_triton_where_there_is_a_kernel():
    cuda = torch.device("cuda")
    for op in ("linear_scan", "diagonal_ssm", "selective_state_update", "causal_conv1d_update"):
        assert dispatch.resolve(op, "", cuda) == ("torch" if dispatch.triton_problem(cuda) else "triton")


@not_interpreted
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not dispatch._exists("triton"), reason="triton is not installed")
def test_a_triton_that_fails_is_tried_and_warned_of_once(monkeypatch):
    """Where it cannot compile, torch takes over; nobody has to find the variable that says so."""
    tried = []

    def probe(device: torch.device) -> None:
        tried.append(device)
        if device.index == 1:
            raise RuntimeError("no compiler")

    monkeypatch.setattr("ssm_core.opkit.triton_runtime.probe", probe)
    dispatch._triton_failure.cache_clear()
    try:
        with pytest.warns(
            UserWarning, match=r"failed on cuda:1 \(RuntimeError: no compiler\).*slower"
        ) as warned:
            chosen = [dispatch.resolve("linear_scan", "", torch.device(f"cuda:{k}")) for k in (0, 1, 0, 1)]
        assert chosen == ["triton", "torch", "triton", "torch"]
        assert len(warned) == 1
        assert tried == [torch.device("cuda:0"), torch.device("cuda:1")]
        with pytest.raises(RuntimeError, match=r"backend 'triton' cannot run: .*no compiler"):
            dispatch.resolve("linear_scan", "triton", torch.device("cuda:1"))
    finally:
        dispatch._triton_failure.cache_clear()


@pytest.mark.skipif(not dispatch._exists("triton"), reason="triton is not installed")
def test_the_kernel_that_is_tried_runs():
    code = "import torch; from ssm_core.opkit import triton_runtime as t; t.probe(torch.device('cpu')); print('ran')"
    assert run_python(code, TRITON_INTERPRET="1").split() == ["ran"]


@not_interpreted
def test_the_environment_chooses_where_the_call_does_not(monkeypatch):
    monkeypatch.setenv("SSM_BACKEND", "triton")
    with pytest.raises(
        RuntimeError, match=f"({NO_TRITON}).*; the environment variable SSM_BACKEND .* unset it"
    ):
        scan()
    assert scan("torch").shape == (1, 3, 1)
    monkeypatch.setenv("SSM_BACKEND", "fast")
    with pytest.raises(ValueError, match="the environment variable SSM_BACKEND is 'fast'"):
        scan()
    monkeypatch.setenv("SSM_BACKEND", "")
    assert scan().shape == (1, 3, 1)


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numba_is_imported_only_when_it_is_needed():
    loaded = "import sys; import ssm_core.ops; print('numba' in sys.modules, 'llvmlite' in sys.modules)"
    assert run_python(loaded).split() == ["False", "False"]


@needs_numba
@pytest.mark.parametrize(("rows", "width"), [(8, 40), (3, 200), (1, 300), (2, 333)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_threads_change_nothing(rows, width, dtype):
    """Work cut by sequences, by columns, and not at all: the same bits."""
    torch.manual_seed(0)
    a, b = (
        0.5 * torch.rand(width, dtype=dtype),
        torch.randn(rows, 70000 // (rows * width) * 5, width, dtype=dtype),
    )
    outputs = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaves = [x.clone().requires_grad_() for x in (a, b)]
            h, last = linear_scan(*leaves, backend="numba")
            outputs.append([h, last, *torch.autograd.grad(h, leaves, b)])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(x, y) for x, y in zip(*outputs, strict=True))


@needs_numba
def test_threads_survive_a_fork():
    code = """
import os, torch
from ssm_core.ops import linear_scan
torch.set_num_threads(2)
a, b = torch.full((64,), 0.5), torch.ones(4, 1000, 64)
def run():
    return linear_scan(a, b, backend="numba")[1].sum().item()
expected = run()
child = os.fork()
if child == 0:
    os._exit(0 if run() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code).split() == ["0"]


@needs_numba
def test_a_time_invariant_decay_is_not_expanded():
    """Peak memory of the scan stays near its output: a view of `a` over time would be as large again."""
    from ssm_core.ops.linear_scan import on_numba

    a, b = torch.rand(128), torch.randn(4, 500, 128)
    with torch.profiler.profile(profile_memory=True) as profile:
        on_numba.forward(a, b, None, None, False)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert allocated < 1.1 * b.nbytes


def test_two_runs_are_the_same_bits(backend):
    torch.manual_seed(0)
    A = torch.complex(-torch.rand(7), torch.randn(7))
    tensors = [
        torch.randn(3, 40, 5),
        torch.rand(3, 40, 7),
        A,
        torch.randn(7, 5),
        torch.randn(5, 7),
        torch.randn(5),
    ]
    runs = []
    for _ in range(2):
        leaves = [x.clone().requires_grad_() for x in tensors]
        y, last = diagonal_ssm(*leaves, backend=backend)
        runs.append([y, last, *torch.autograd.grad(y.square().sum() + last.abs().sum(), leaves)])
    assert all(torch.equal(x, y) for x, y in zip(*runs, strict=True))

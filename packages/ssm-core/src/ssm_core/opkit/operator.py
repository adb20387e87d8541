"""An operation as torch knows it, made from its backends: two registered operators, a derivative, a vmap rule.

A backend is a module `on_<backend>` with two functions of clean inputs,

    forward(*tensors, *options) -> outputs
    backward(*tensors, *kept outputs, *gradients of the public outputs, *options) -> gradients

the latter one per tensor but those named constant (`cu_seqlens`), None for a tensor that was None. Modules on_torch and
on_numba get every tensor in one precision (float32 at least) and need not look at dtypes; on_triton gets them as they
are.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ssm_core.opkit.checks import check_offsets, compute_dtype, output_dtype
from ssm_core.opkit.dispatch import resolve, run_backend
from ssm_core.opkit.transforms import apply, contiguous, refuse_mapped, register

Outputs = tuple[Tensor, ...]


def operator(
    name: str,
    tensors: str,
    options: str,
    fake: Callable[..., Outputs],
    *,
    outputs: int = 2,
    public: int = 2,
    kept: Sequence[int] = (),
    constant: Sequence[str] = ("cu_seqlens",),
    package: str = "ssm_core.ops",
) -> Callable[..., Outputs]:
    """Register an operation and return it as a differentiable function of (*tensors, *options, backend).

    Args:
        name: The operator's name with its namespace, ``ssm_core::selective_scan``; without it, the op's own name.
        tensors: Names of the tensors, ``?`` behind those that may be None: ``"u dt A D? cu_seqlens?"``.
        options: Options as a schema has them, ``"bool dt_softplus, str method"``; may be empty.
        fake: (*tensors, *options) -> outputs of the right shape, dtype and device, their values never read.
            Output 0 has the dtype of the first tensor (made complex if need be), the others that of the arithmetic.
        outputs: Number of outputs, those kept for the backward included.
        public: How many of them, from the first, have gradients and are returned.
        kept: Outputs that the backward reads.
        constant: Names of the tensors without a gradient: offsets, indices, masks.
        package: Where the folder ``<op>`` with the backends lies.
    """
    op = name.rpartition("::")[2]
    names = [word.rstrip("?") for word in tensors.split()]
    schema = [f"Tensor{'?' * word.endswith('?')} {word.rstrip('?')}" for word in tensors.split()]
    trailing = [part for part in (options, "str backend") if part]
    saved, grads = [f"Tensor out_{i}" for i in kept], [f"Tensor grad_{i}" for i in range(public)]
    n, has_gradient = len(names), [i for i, name in enumerate(names) if name not in constant]
    _define(name, [*schema, *trailing], outputs)
    _define(f"{name}_backward", [*schema, *saved, *grads, *trailing], len(has_gradient))
    namespace = getattr(torch.ops, name.partition("::")[0])
    single = outputs == 1
    ops = getattr(namespace, op), getattr(namespace, f"{op}_backward")

    def run(direction: str, args: tuple, count: int) -> tuple[tuple[Any, ...], torch.dtype]:
        *given, backend = args
        given, first = list(given), args[0]
        if "cu_seqlens" in names:
            cu_seqlens = given[names.index("cu_seqlens")]
            if cu_seqlens is not None and cu_seqlens.device.type == "cpu":
                check_offsets(op, cu_seqlens, first.shape[1])
        dtype = compute_dtype(*(given[i] for i in has_gradient))
        chosen = resolve(op, backend, first.device, package)
        if chosen != "triton":
            given[:count] = [_widened(x, dtype) for x in given[:count]]
        return run_backend(direction, op, chosen, *given, first=first, package=package), dtype

    @torch.library.impl(name, "CompositeExplicitAutograd")
    def _forward(*args):
        found, dtype = run("forward", args, n)
        narrow = output_dtype(args[0], dtype) if found[0].is_complex() else args[0].dtype
        found = contiguous((found[0].to(narrow), *found[1:]))
        return found[0] if single else found

    @torch.library.impl(f"{name}_backward", "CompositeExplicitAutograd")
    def _backward(*args):
        found, _ = run("backward", args, n + len(kept) + public)
        pairs = zip(found, (args[i] for i in has_gradient), strict=True)
        return contiguous(tuple(args[0].new_empty(0) if x is None else g.to(x.dtype) for g, x in pairs))

    @torch.library.register_fake(name)
    def _forward_fake(*args):
        found = fake(*args[:-1])
        return found[0] if single else found

    @torch.library.register_fake(f"{name}_backward")
    def _backward_fake(*args):
        given = (args[i] for i in has_gradient)
        return tuple(args[0].new_empty(0) if x is None else x.new_empty(x.shape) for x in given)

    class Forward(Function):
        @staticmethod
        def forward(*args):
            return ops[0](*args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.options = inputs[n:]
            output = (output,) if single else output
            ctx.save_for_backward(*inputs[:n], *(output[i] for i in kept))

        @staticmethod
        def backward(ctx, *grads):
            given = ctx.saved_tensors
            found = apply(Backward, ops[1], *given, *grads[:public], *ctx.options)
            by_place = dict(zip(has_gradient, found, strict=True))
            return (
                *(None if given[i] is None else by_place.get(i) for i in range(n)),
                *(None for _ in ctx.options),
            )

        @staticmethod
        def vmap(info, in_dims, *args):
            return _mapped(Forward, ops[0], op, names, info.batch_size, in_dims, args)

    class Backward(Function):
        @staticmethod
        def forward(*args):
            return ops[1](*args)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *grads):
            raise NotImplementedError(f"{op}: no second derivative; pass backend='reference' to have one")

        @staticmethod
        def vmap(info, in_dims, *args):
            return _mapped(Backward, ops[1], op, names, info.batch_size, in_dims, args)

    register(name, Forward)
    register(f"{name}_backward", Backward)

    def call(*args) -> Outputs:
        found = apply(Forward, ops[0], *args)
        return (found,) if isinstance(found, Tensor) else tuple(found[:public])

    return call


def _define(name: str, arguments: Sequence[str], outputs: int) -> None:
    returns = "Tensor" if outputs == 1 else ", ".join(["Tensor"] * outputs)
    torch.library.define(name, f"({', '.join(arguments)}) -> ({returns})")


def _widened(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A floating or complex tensor in the precision of `dtype`, whichever of the two it is; others as they are."""
    if x is None or not (x.is_floating_point() or x.is_complex()):
        return x
    double = dtype in (torch.float64, torch.complex128)
    real, wide = (torch.float64, torch.complex128) if double else (torch.float32, torch.complex64)
    return x.to(wide if x.is_complex() else real)


def _mapped(
    function: type[Function],
    operator: Callable,
    op: str,
    names: Sequence[str],
    size: int,
    in_dims: Sequence[int | None],
    args: tuple,
) -> tuple:
    """The vmap rule: one call after the other. Operands lie too differently to have one axis for all to fold into."""
    if "cu_seqlens" in names:
        refuse_mapped(op, in_dims[names.index("cu_seqlens")])
    calls = (
        apply(
            function,
            operator,
            *(x if dim is None else x.select(dim, i) for x, dim in zip(args, in_dims, strict=True)),
        )
        for i in range(size)
    )
    found: list[Any] = list(calls)
    if isinstance(found[0], Tensor):
        return torch.stack(found), 0
    stacked = tuple(torch.stack(parts) for parts in zip(*found, strict=True))
    return stacked, (0,) * len(stacked)

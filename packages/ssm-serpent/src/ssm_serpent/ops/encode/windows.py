"""Where the windows lie: flat places of their tokens, checks, and the runs of windows that start together."""

import torch
from torch import Tensor


def check_windows(x_bld: Tensor, start_bk: Tensor, inside_bkw: Tensor) -> None:
    """Raise a ValueError unless slots hold tokens of their row and starts do not decrease. Reads values: CPU only."""
    length, window = x_bld.shape[1], inside_bkw.shape[2]
    token_bkw = start_bk[:, :, None] + torch.arange(window)
    if (inside_bkw & ((token_bkw < 0) | (token_bkw >= length))).any():
        raise ValueError(
            f"encode: a slot marked in inside_bkw holds token start_bk + j outside 0..{length - 1}; take start_bk and "
            "inside_bkw from ssm_serpent.index.resample_index of this very sequence"
        )
    sorted_bk = _starts(start_bk, inside_bkw, length)
    if (sorted_bk[:, 1:] < sorted_bk[:, :-1]).any():
        raise ValueError("encode: start_bk must not decrease over the rows in use, and these must come first")


def places(start_bk: Tensor, window: int, length: int) -> Tensor:
    """Row of x_bld.flatten(0, 1) of every slot, (B K, W); some token of the row where the slot holds none."""
    token_bkw = start_bk[:, :, None] + torch.arange(window, device=start_bk.device)
    base_b = torch.arange(len(start_bk), device=start_bk.device) * length
    return (token_bkw.clamp_(0, max(length - 1, 0)) + base_b[:, None, None]).flatten(0, 1)


def run_edges(start_bk: Tensor, inside_bkw: Tensor, length: int) -> Tensor:
    """First of the windows that start at token t or later, for t = 1 - W, ..., L: (B, W + L)."""
    first = torch.arange(1 - inside_bkw.shape[2], length + 1, device=start_bk.device)
    starts_bk = _starts(start_bk, inside_bkw, length)
    return torch.searchsorted(starts_bk, first.expand(len(start_bk), -1).contiguous())


def _starts(start_bk: Tensor, inside_bkw: Tensor, length: int) -> Tensor:
    """The starts, those of rows not in use beyond the last token: sorted, since such rows come last."""
    return start_bk.where(inside_bkw.any(2), length).contiguous()

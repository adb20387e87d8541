"""Steps folded into chunks and back, and the states handed from chunk to chunk, in plain torch calls."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_core.opkit.packing import over
from ssm_core.ops.ssd_scan._chunks import Chunks, chunk_length, chunks


class Batch:
    """Rows of one length: (B, L, ...) as (B K, Q, ...), the last chunk of a row padded with zeros."""

    def __init__(self, rows: int, length: int, chunk_size: int) -> None:
        """Choose the chunks."""
        self.rows, self.length = rows, length
        self.size = chunk_length(chunk_size, length, 1)
        self.count = -(-length // self.size)

    def split(self, x: Tensor) -> Tensor:
        """(B, L, ...) as (B K, Q, ...)."""
        missing = self.count * self.size - self.length
        if missing:
            x = F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))
        return x.reshape(self.rows * self.count, self.size, *x.shape[2:])

    def join(self, y: Tensor) -> Tensor:
        """(B K, Q, ...) as (B, L, ...)."""
        return y.reshape(self.rows, self.count * self.size, *y.shape[2:])[:, : self.length]

    def carry(self, decay: Tensor, inflow: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The states each chunk starts from, and the last ones: S_{c+1} = decay_c S_c + inflow_c."""
        return self._walk(decay, inflow, start, range(self.count))

    def carry_back(self, decay: Tensor, inflow: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The adjoint of the state each chunk ends with, and of the first ones."""
        return self._walk(decay, inflow, end, range(self.count - 1, -1, -1))

    def _walk(self, decay: Tensor, inflow: Tensor, state: Tensor, order: range) -> tuple[Tensor, Tensor]:
        decay = over(decay.unflatten(0, (self.rows, self.count)), inflow[None])  # (B, K, H, 1, 1)
        inflow = inflow.unflatten(0, (self.rows, self.count))  # (B, K, H, P, N)
        found = torch.empty_like(inflow)
        for c in order:
            found[:, c] = state
            state = torch.addcmul(inflow[:, c], decay[:, c], state)
        return found.flatten(0, 1), state


class Pack:
    """Sequences end to end: (1, L, ...) as (K, Q, ...), every chunk within one sequence, zeros behind its end."""

    def __init__(self, cu_seqlens: Tensor, length: int, chunk_size: int) -> None:
        """Choose the chunks and find the steps of each, and the place of each step."""
        self.size = chunk_length(chunk_size, length, cu_seqlens.shape[0] - 1)
        self.chunks: Chunks = chunks(cu_seqlens, length, self.size)
        steps = self.chunks.start[:, None] + torch.arange(self.size, device=cu_seqlens.device)  # (K, Q)
        self.outside = steps >= self.chunks.stop[:, None]
        self.steps = steps.clamp(max=length - 1).flatten()
        within = torch.arange(length, device=cu_seqlens.device)
        sequence = torch.searchsorted(cu_seqlens.long(), within, right=True) - 1
        within = within - cu_seqlens.long()[sequence]
        self.places = self.chunks.offsets[sequence] * self.size + within

    def split(self, x: Tensor) -> Tensor:
        """(1, L, ...) as (K, Q, ...)."""
        folded = x[0].index_select(0, self.steps).unflatten(0, self.outside.shape)
        return folded.masked_fill_(over(self.outside, folded), 0.0)

    def join(self, y: Tensor) -> Tensor:
        """(K, Q, ...) as (1, L, ...)."""
        return y.flatten(0, 1).index_select(0, self.places)[None]

    def carry(self, decay: Tensor, inflow: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The states each chunk starts from, and the last ones: S_{c+1} = decay_c S_c + inflow_c."""
        (first, _), offsets = self._edges(), self.chunks.offsets
        found = self._walk(decay, inflow, start, first, range(len(inflow)))
        return found, self._at(decay, inflow, found, start, offsets[1:] - 1)

    def carry_back(self, decay: Tensor, inflow: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """The adjoint of the state each chunk ends with, and of the first ones."""
        (_, last), offsets = self._edges(), self.chunks.offsets
        found = self._walk(decay, inflow, end, last, range(len(inflow) - 1, -1, -1))
        return found, self._at(decay, inflow, found, end, offsets[:-1])

    def _edges(self) -> tuple[Tensor, Tensor]:
        """Whether each chunk is the first, the last of its sequence (K,)."""
        chunk = torch.arange(len(self.chunks.start), device=self.chunks.start.device)
        offsets, sequence = self.chunks.offsets, self.chunks.sequence
        return chunk == offsets[sequence], chunk == offsets[sequence + 1] - 1

    def _walk(self, decay: Tensor, inflow: Tensor, edge: Tensor, enters: Tensor, order: range) -> Tensor:
        """Where `enters`, a chunk takes its sequence's row of `edge` in place of what the one before hands on."""
        decay = over(decay, inflow)
        found, state = torch.empty_like(inflow), torch.zeros_like(inflow[0])
        for c in order:
            state = torch.where(enters[c], edge.index_select(0, self.chunks.sequence[c : c + 1])[0], state)
            found[c] = state
            state = torch.addcmul(inflow[c], decay[c], state)
        return found

    def _at(self, decay: Tensor, inflow: Tensor, found: Tensor, edge: Tensor, chunk: Tensor) -> Tensor:
        """What `chunk` (S,) hands on; an empty sequence hands on its row of `edge`."""
        chunk = chunk.clamp(0, len(inflow) - 1)
        state = torch.addcmul(inflow[chunk], over(decay[chunk], inflow), found[chunk])
        nonempty = self.chunks.offsets[1:] > self.chunks.offsets[:-1]
        return torch.where(over(nonempty, state), state, edge)

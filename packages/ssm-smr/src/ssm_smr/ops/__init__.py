"""The operation of State Memory Replay, `smr_gate`."""

from ssm_smr.ops.smr_gate import smr_gate

__all__ = ["smr_gate"]

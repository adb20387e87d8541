"""The operations of selective resampling: `encode` makes points of windows, `spread` hands points back to tokens."""

from ssm_serpent.ops.encode import encode
from ssm_serpent.ops.spread import spread

__all__ = ["encode", "spread"]

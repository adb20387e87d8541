"""Models of other people's formats, read from and written to disk."""

from ssm_core.convert.huggingface import from_huggingface, to_huggingface

__all__ = ["from_huggingface", "to_huggingface"]

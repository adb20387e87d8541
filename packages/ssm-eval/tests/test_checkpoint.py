from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from ssm_core.plugin.errors import UserError
from ssm_eval.checkpoint import count_scalars, pointer


def test_scalars_are_counted_from_the_header(tmp_path):
    file = tmp_path / "model.safetensors"
    tensors = {"a": torch.zeros(3, 4), "b": torch.zeros(()), "c": torch.zeros(5, dtype=torch.complex64)}
    save_file(tensors, file, metadata={"a": "note"})
    assert count_scalars(file) == 12 + 1 + 10


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]", b"\x04\0\0\0\0\0\0\0{'a'"])
def test_a_damaged_file_is_told(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match="not a safetensors file"):
        count_scalars(file)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        count_scalars(tmp_path / "model.safetensors")


def test_pointer_is_that_of_the_checkpoint(make_run):
    run = make_run()
    assert (pointer(run)["step"], pointer(run, "latest")["step"]) == (8, 12)
    (run.path / "best.json").unlink()
    assert pointer(run)["step"] == 12

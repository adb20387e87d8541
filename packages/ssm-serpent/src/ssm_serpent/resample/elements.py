"""From a text to a row of a task's data, and from a row to the text of its elements; nothing is known of the task.

In turn, what is there is used: a method ``encode(text)`` of the task; the data set's ``tokenizer`` (or what its
``load()`` gives) with ``encode(bytes)`` and ``spelled``; the data set's ``vocabulary``, a name for each id, in which a
byte is written as ``<0x41>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ssm_core.plugin.errors import UserError

BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")

IGNORED = -100
"""Target of an element that is not scored."""


def row_of_text(task: Any, dataset: Any, text: str) -> dict[str, Any]:
    """Return a row like those of the data set, but with a text's ids; targets by element are not scored.

    Raises:
        UserError: If there is no way from this text to ids.
    """
    template: Mapping[str, Any] = dataset[0]
    inputs = template.get("inputs")
    if inputs is None or getattr(inputs, "ndim", 0) != 1 or inputs.dtype.kind not in "iu":
        raise UserError("text goes with tasks of tokens, and this one's inputs are none", "--set index=0")
    ids = encode(task, dataset, text)
    row: dict[str, Any] = {}
    for name, value in template.items():
        if name == "inputs":
            row[name] = _array(torch.tensor(ids), value)
        elif name == "length":
            row[name] = _array(torch.tensor(len(ids)), value)
        elif getattr(value, "ndim", 0) and len(value) == len(inputs):
            fill = IGNORED if name.startswith("target") and value.dtype.kind in "if" else 0
            row[name] = _array(torch.full((len(ids), *value.shape[1:]), fill), value)
        else:
            row[name] = value
    return row


def encode(task: Any, dataset: Any, text: str) -> list[int]:
    """Return the ids of a text, at least one.

    Raises:
        UserError: If the task does not say how, or has no id for a piece of it.
    """
    own: Any = getattr(task, "encode", None)
    tokenizer, vocabulary = _tokenizer(dataset), _vocabulary(dataset)
    if own is not None:
        ids = [int(index) for index in own(text)]
    elif tokenizer is not None:
        ids = [int(index) for index in tokenizer.encode(text.encode("utf-8", "surrogateescape"))]
    elif vocabulary is not None:
        ids = _look_up(vocabulary, text)
    else:
        raise UserError(
            f"{type(task).__name__} does not say how a text becomes ids: it has no encode(text), and its test split "
            "neither tokenizer nor vocabulary",
            "choose a sequence of the test split instead: --set index=0",
        )
    if not ids:
        raise UserError(f"no ids come of the text {text!r}", "give a longer one")
    return ids


def texts(dataset: Any, inputs: Any) -> list[str] | None:
    """Return what each element of a row's inputs stands for; None if they are no tokens, or nobody says."""
    if getattr(inputs, "ndim", 0) != 1 or inputs.dtype.kind not in "iu":
        return None
    spelled = getattr(_tokenizer(dataset), "spelled", None)
    if spelled is not None:
        return [spelled[int(index)].decode("utf-8", "backslashreplace") for index in inputs]
    vocabulary = _vocabulary(dataset)
    return None if vocabulary is None else [_plain(vocabulary[int(index)]) for index in inputs]


def _tokenizer(dataset: Any) -> Any:
    found: Any = getattr(dataset, "tokenizer", None)
    found = found.load() if callable(getattr(found, "load", None)) else found
    return found if callable(getattr(found, "encode", None)) else None


def _vocabulary(dataset: Any) -> Sequence[str] | None:
    return getattr(dataset, "vocabulary", None)


def _look_up(vocabulary: Sequence[str], text: str) -> list[int]:
    ids = {name: index for index, name in enumerate(vocabulary)}
    words = text.split()
    if " " not in ids and "<0x20>" not in ids and all(word in ids for word in words):
        return [ids[word] for word in words]
    found: list[int] = []
    for character in text:
        pieces = [f"<0x{byte:02X}>" for byte in character.encode("utf-8", "surrogateescape")]
        if character in ids:
            found.append(ids[character])
        elif all(piece in ids for piece in pieces):
            found += [ids[piece] for piece in pieces]
        elif "<unk>" in ids:
            found.append(ids["<unk>"])
        else:
            raise UserError(
                f"the task's vocabulary of {len(ids)} names has no {character!r}",
                f"it has {', '.join(list(ids)[:8])}, ...",
            )
    return found


def _plain(name: str) -> str:
    """Return a byte's name as the character it stands for, other names as they are."""
    byte = BYTE.fullmatch(name)
    return name if byte is None else bytes([int(byte[1], 16)]).decode("ascii", "backslashreplace")


def _array(values: torch.Tensor, like: Any) -> Any:
    return values.numpy().astype(like.dtype)

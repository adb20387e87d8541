"""Config dataclasses: made, checked, overridden and printed. Standard library and pydantic only.

A config is a frozen dataclass whose docstring documents every field in an ``Attributes:`` section. Values come from
TOML, so a field is an int, float, bool, str, Literal, Path or a tuple of them. None is allowed as a default only: the
word ``none`` gives it back (TOML has no null).
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

from ssm_core.plugin.errors import ConfigError, did_you_mean

T = TypeVar("T")
Tree = dict[str, Any]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """Make a class a config: a frozen, keyword-only dataclass that pydantic checks with unknown keys forbidden.

    The switch has to sit on the class itself: a bare ``TypeAdapter`` of a dataclass drops unknown keys silently.
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return made


def check(cls: type[T], values: Mapping[str, Any], where: str, whose: str) -> T:
    """Build a config from plain values.

    Args:
        cls: The config class.
        values: Field values, as read from TOML, JSON or ``--set``.
        where: Dotted prefix under which the user wrote them, such as ``"backbone"``.
        whose: The owner, such as ``"backbone ssm-core/s5"``.

    Raises:
        ConfigError: For an unknown field, a value of the wrong type, or fields that contradict each other.
    """
    from pydantic import TypeAdapter, ValidationError

    defaults = {f.name: f.default for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in defaults:
            raise ConfigError(f"{whose} has no setting '{where}.{key}'", did_you_mean(key, defaults))
    given, adapter = dict(values), TypeAdapter(cls)
    for key, value in values.items():
        if value == "none" and defaults[key] is None:
            given[key] = None
    try:
        made = adapter.validate_python(given)
        for key, value in given.items():
            # Python counts true as 1; who writes true for a number has mistaken the knob.
            if isinstance(value, bool) and type(getattr(made, key)) in (int, float):
                raise ConfigError(
                    f"'{where}.{key}' of {whose} is a number (given: {to_toml(value)})",
                    describe_hint(cls, (key,)),
                )
        return made
    except ValidationError as error:
        for item in error.errors():
            # `--set task.time=true` means the word where the knob takes words.
            wants_text = item["type"] in ("literal_error", "string_type") and len(item["loc"]) == 1
            if wants_text and isinstance(item["input"], bool | int | float):
                given[str(item["loc"][0])] = to_toml(item["input"])
    try:
        return adapter.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([where, *(str(part) for part in first["loc"])])
        reason = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # of a config's own check, which looks at several fields
            meant = _meant(reason, given)
            told = ", ".join(f"{where}.{key} = {to_toml(plain(given[key]))}" for key in meant)
            raise ConfigError(
                f"{whose}: {reason}{f' (given: {told})' if told else ''}",
                describe_hint(cls, tuple(meant)) if len(meant) == 1 else "",
            ) from None
        shown = "" if first["type"] == "value_error" else f" (given: {first['input']!r})"
        raise ConfigError(f"'{path}' of {whose}: {reason}{shown}", describe_hint(cls, first["loc"])) from None


def _meant(reason: str, given: Mapping[str, Any]) -> list[str]:
    """Return the given fields that the message of a check names without a value; the only one, if it names none."""
    named = [key for key in given if re.search(rf"(?<![\w.]){re.escape(key)}\b", reason)]
    told = [
        key for key in named if re.search(rf"\b{re.escape(key)}( = | {re.escape(str(given[key]))}\b)", reason)
    ]
    return [key for key in named or (list(given) if len(given) == 1 else []) if key not in told]


def describe_hint(cls: type, location: tuple[Any, ...]) -> str:
    """Return the documentation of the field a checking error points at, as the hint to print."""
    name = str(location[0]) if location else ""
    text = field_docs(cls).get(name, "")
    return f"{name}: {text}" if text else ""


def field_docs(cls: type) -> dict[str, str]:
    """Return field name -> documentation, read from the ``Attributes:`` section of the class docstring."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
        if section:
            entries = re.split(r"^ {4}(\w+):\s", section[1], flags=re.MULTILINE)[1:]
            pairs = zip(entries[::2], entries[1::2], strict=True)
            docs |= {name: " ".join(body.split()) for name, body in pairs}
    return docs


def knobs(cls: type) -> list[dict[str, Any]]:
    """Return name, type, default and documentation of every field, as plain data."""
    docs = field_docs(cls)
    rows: list[dict[str, Any]] = []
    for f in dataclasses.fields(cls):
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        kind = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))
        required = default is dataclasses.MISSING
        rows.append(
            {
                "name": f.name,
                "type": kind,
                "default": None if required else plain(default),
                "required": required,
                "doc": docs.get(f.name, ""),
            }
        )
    return rows


def plain(value: Any) -> Any:
    """Return a value as JSON and TOML know it: dataclasses as dicts, tuples as lists, paths as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def read_file(path: Path) -> Tree:
    """Read a TOML file, or a run folder's ``config.json``.

    Raises:
        ConfigError: If it is missing or cannot be parsed; the message gives file, line and reason.
    """
    import json

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None
    try:
        return json.loads(text) if Path(path).suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not valid {Path(path).suffix[1:].upper() or 'TOML'}: {error}") from None


def parse_set(assignments: Iterable[str]) -> Tree:
    """Turn ``["a.b=1e-3", "a.c=text"]`` into ``{"a": {"b": 1e-3, "c": "text"}}``.

    The right side is read as a TOML value, and as plain text if it is none.
    """
    tree: Tree = {}
    for assignment in assignments:
        key, found, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not found or not all(parts):
            raise ConfigError(f"--set takes PATH=VALUE, not '{assignment}'", "example: --set optim.lr=1e-3")
        try:
            value = tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            value = text
        tree = merge(tree, nest(parts, value))
    return tree


def nest(parts: list[str], value: Any) -> Tree:
    """Return ``{"a": {"b": value}}`` for parts ``["a", "b"]``."""
    for part in reversed(parts):
        value = {part: value}
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """Return ``base`` with ``over`` laid on it: tables are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merge(cast("Mapping[str, Any]", old), cast("Mapping[str, Any]", value))
        merged[key] = value
    return merged


def to_toml(value: Any) -> str:
    """Return a plain value as TOML text."""
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(to_toml(item) for item in cast('Sequence[Any]', value))}]"
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        pairs = (f"{key} = {to_toml(item)}" for key, item in items if item is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for surrogate pairs, and it leaves DEL alone.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def table(cls: type, values: Mapping[str, Any], header: str) -> str:
    """Print a config as a TOML table with the documentation and type of every knob as comments.

    A knob whose value is None stands commented out: TOML has no null, and leaving it out means the same.
    """
    lines = [f"[{header}]"] if header else []
    for knob in knobs(cls):
        value = values.get(knob["name"], knob["default"])
        text = f"# {knob['name']} =" if value is None else f"{knob['name']} = {to_toml(plain(value))}"
        lines += [f"# {knob['doc']}  ({knob['type']})", text]
    return "\n".join(lines) + "\n"

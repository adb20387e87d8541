"""Freezes the public names of every package in ``tests/house/public_api.json``.

Usage: ``just freeze-api``, after deciding that a name may appear, or may leave (then it goes through one release in
which it still works and warns).
"""

from __future__ import annotations

import importlib
import json

from workspace import ROOT, members

FILE = ROOT / "tests" / "house" / "public_api.json"

EXTRA = ("ssm_core.ops", "ssm_core.testing")
"""Public modules beside the packages themselves."""


def names() -> dict[str, list[str]]:
    """Return module -> its ``__all__``, sorted; empty for a package that offers nothing to import."""
    modules = [*(member.module for member in members()), *EXTRA]
    return {
        module: sorted(getattr(importlib.import_module(module), "__all__", ())) for module in sorted(modules)
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(names(), indent=2) + "\n", encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")

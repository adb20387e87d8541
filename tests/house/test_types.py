from __future__ import annotations

import sys


def test_basedpyright_is_content(check):
    check("basedpyright", "--pythonpath", sys.executable)

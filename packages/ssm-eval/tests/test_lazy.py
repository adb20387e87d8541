from __future__ import annotations

import subprocess
import sys

import pytest

import ssm_eval

SCRIPT = """
import sys
import ssm_eval
assert not {"torch", "numpy", "matplotlib", "scipy"} & set(sys.modules)
"""


def test_importing_the_package_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ssm_eval.__all__)
def test_every_name_is_there(name):
    assert callable(getattr(ssm_eval, name))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'ssm_eval' has no attribute 'evalute'"):
        ssm_eval.evalute  # noqa: B018

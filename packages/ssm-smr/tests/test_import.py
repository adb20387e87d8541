from __future__ import annotations

import subprocess
import sys


def test_the_name_alone_loads_no_torch():
    code = """
import sys
import ssm_smr, ssm_smr.spec
assert not {"torch", "numpy"} & set(sys.modules), "torch"
from ssm_smr import smr_gate
import ssm_smr.layer, ssm_smr.ops.smr_gate.on_torch
assert ssm_smr.smr_gate is smr_gate and callable(smr_gate)
try:
    ssm_smr.gates
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "module 'ssm_smr' has no attribute 'gates'"

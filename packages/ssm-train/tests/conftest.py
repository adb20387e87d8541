"""Lets tests and the processes they start import ``toy_runs`` by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

"""Run a script of this folder that forks runs, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def run_script(name: str, root: Path) -> str:
    """Run `name`.py on a folder, and see that it ends well; what it wrote to the standard error."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(TESTS / f"{name}.py"), str(root)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr

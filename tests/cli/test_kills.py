"""Every training command survives being killed: started again, it ends as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.kills import COMMANDS

ROOT = Path(__file__).parent.parent.parent
ALWAYS = {"fit a text", "translate"}
"""The others take minutes together: `make kills` kills each of them twenty times."""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_ends_as_if_it_had_not_been(name, tmp_path):
    if name not in ALWAYS and "TREADLE_KILLS" not in os.environ:
        pytest.skip("it takes long: make kills")
    times = os.environ.get("TREADLE_KILLS", "1")
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.kills", name, tmp_path / "runs", times],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    said = "".join(path.read_text()[-2000:] for path in (tmp_path / "runs").rglob("said")) if done.returncode else ""
    assert done.returncode == 0, done.stderr[-3000:] + said
    assert done.stdout == f"killed {times} times\n"

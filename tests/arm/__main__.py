"""Run the engine's tests on a 64-bit Arm processor that QEMU emulates: ``make arm``, or ``python -m tests.arm``.

The first run downloads half a gigabyte (see ``root.py``). ``docs/how-to/run-on-arm.md`` says what it wants, and what
it cannot show.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.arm.root import REPOSITORY, Root

EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
MODELS = {"neoverse-n1": "neoverse-n1", "neoverse-v1": "max"}
"""By LLVM's name of a CPU, QEMU's of one that has its instructions: older releases have no Neoverse V1."""
TESTS = [
    "tests/arm/battery.py",
    "tests/engines/test_engines.py::test_rows_shared_out_over_threads",
    "tests/engines/test_engines.py::test_two_threads_with_many_rows",
    "tests/engines/test_engines.py::test_several_python_threads_at_once",
    "tests/engines/test_engines.py::test_odd_sizes",
    "tests/running/test_sessions.py::test_odd_sizes_and_more_rows_than_a_tile",
    "tests/engines/cpu/routines",
    "tests/engines/cpu/write/test_vector_functions.py",
]


def main() -> int:
    """Prepare, run, and say what came of it; 0 if all is right."""
    parser = argparse.ArgumentParser(prog="python -m tests.arm", description=__doc__)
    parser.add_argument("--root", type=Path, default=REPOSITORY / ".venv" / "arm", help="where to unpack all of it")
    parser.add_argument("--cpu", choices=MODELS, default="neoverse-n1", help="which one to emulate")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="how many to run at a time")
    parser.add_argument("pytest", nargs="*", help="after --: arguments of pytest, in place of all tests")
    given = parser.parse_args()
    emulator = next(filter(None, map(shutil.which, EMULATORS)), None)
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if emulator is None or missing:
        parser.error("this needs a Debian or Ubuntu with QEMU: apt-get install qemu-user-static")
    root = Root(given.root)
    root.make()
    root.pretend(given.cpu)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=root.folder) as scratch:
        right = run(root, [emulator, "-cpu", MODELS[given.cpu], "-L", str(root.system)], given, Path(scratch))
    print(f"{'right' if right else 'WRONG'} on {given.cpu}, emulated: {(time.monotonic() - start) / 60:.0f} minutes")
    return not right


def run(root: Root, emulator: list[str], given: argparse.Namespace, scratch: Path) -> bool:
    """Run the tests in several processes; whether all passed. What each of them prints follows when it has ended."""
    command = [*emulator, str(root.python), "-m", "pytest", "-q", "-p", "tests.arm.shares", "-p", "no:cacheprovider"]
    command += ["-o", "faulthandler_timeout=0", "-m", "not slow", "--durations=3", *(given.pytest or TESTS)]
    running = []
    for number in range(given.processes):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY / "src", REPOSITORY, root.wheels))),
            "PYTHONPYCACHEPREFIX": str(root.folder / "bytecode"),
            "PYTHONDONTWRITEBYTECODE": "",
            "OMP_NUM_THREADS": "1",
            "TREADLE_VERIFY": "never",  # the tests compare all of it, and Python is slow here
            "TREADLE_CACHE": str(scratch / "cache"),
            "TREADLE_ARM_SHARE": f"{number}/{given.processes}",
        }
        log = open(scratch / f"log{number}", "w+")  # noqa: SIM115 - it is closed when its process has ended
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)
        running.append((process, log))
    for process, log in running:
        process.wait()
        with log:
            log.seek(0)
            print(log.read(), flush=True)
    return all(process.returncode == 0 for process, _ in running)


if __name__ == "__main__":
    sys.exit(main())

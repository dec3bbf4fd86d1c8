"""A folder with Debian's Python for 64-bit Arm, and wheels: what QEMU needs to run the tests. Nothing is installed.

Debian's packages are unpacked, not configured, so it takes no rights; ``apt-get`` gets a state of its own, and finds
for another architecture what depends on what. PyTorch is the newest release on PyPI whose build for this architecture
is one for CPUs; later ones want gigabytes of CUDA's libraries.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CONSTRAINTS = REPOSITORY / "constraints.txt"

DEBIAN = "http://deb.debian.org/debian", "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = ["python3.11", "libstdc++6", "libgomp1"]
PYTHON, GLIBC = "3.11", 36
"""Those of that Debian; of glibc the minor version."""

TORCH = "torch==2.10.0"
WHEELS = [
    *("numpy", "llvmlite", "pyarrow", "safetensors", "jaxtyping", "typer", "rich", "matplotlib"),  # treadle's own
    *("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec"),  # PyTorch's
    *("pytest", "hypothesis", "beartype", "sybil[pytest]"),
]

PARTS = {"neoverse-n1": "0xd0c", "neoverse-v1": "0xd40"}
"""By LLVM's name of a CPU, the number that the system knows it by."""
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
MORE = {"neoverse-n1": "", "neoverse-v1": " sve bf16 i8mm"}


class Root:
    """The folder, made where it is not there yet.

    Attributes:
        folder: it.
        system: what stands for ``/``.
        wheels: what ``PYTHONPATH`` has to name.
        python: the program that QEMU is given.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self.system, self.wheels = self.folder / "system", self.folder / "wheels"
        self.python = self.system / "usr" / "bin" / f"python{PYTHON}"

    def make(self) -> None:
        """Download and unpack, if that was not done, or something else is wanted than was then."""
        stamp = self.folder / "made"
        wanted = hashlib.sha256(Path(__file__).read_bytes() + CONSTRAINTS.read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._unpack_debian()
        self._unpack_wheels()
        stamp.write_text(wanted)

    def pretend(self, cpu: str) -> None:
        """Let programs read in ``/proc/cpuinfo`` that they run on that CPU: QEMU shows them the host's."""
        info = {
            "processor": "0",
            "Features": FEATURES + MORE[cpu],
            "CPU implementer": "0x41",
            "CPU architecture": "8",
            "CPU part": PARTS[cpu],
        }
        place = self.system / "proc" / "cpuinfo"
        place.parent.mkdir(exist_ok=True)
        place.write_text("".join(f"{name}\t: {value}\n" for name, value in info.items()) + "\n")

    def _unpack_debian(self) -> None:
        apt = self.folder / "apt"
        for part in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg"):
            (apt / part).mkdir(parents=True)
        archives = apt / "var" / "cache" / "apt" / "archives"
        (archives / "partial").mkdir(parents=True)
        status = apt / "var" / "lib" / "dpkg" / "status"
        status.touch()
        mirror, release = DEBIAN
        (apt / "etc" / "apt" / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {release} main\n")
        options = {
            "Dir": apt,
            "Dir::State::status": status,
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": os.environ.get("USER", "root"),
            "Debug::NoLocking": "1",
        }
        command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
        subprocess.run([*command, "update"], check=True)
        install = ["install", "--download-only", "--yes", "--no-install-recommends"]
        subprocess.run([*command, *install, *PACKAGES], check=True, stdout=subprocess.DEVNULL)
        for name in ("lib", "bin", "sbin"):  # packages say /lib, which is /usr/lib
            (self.system / "usr" / name).mkdir(parents=True)
            (self.system / name).symlink_to(f"usr/{name}")
        for archive in sorted(archives.glob("*.deb")):
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpacked:
                into = ["tar", "-x", "-C", self.system, "--keep-directory-symlink", "--no-same-owner"]
                subprocess.run(into, stdin=unpacked.stdout, check=True)
        shutil.rmtree(apt)

    def _unpack_wheels(self) -> None:
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC + 1)] + ["manylinux2014_aarch64"]
        command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile"]
        command += ["--target", str(self.wheels), "--python-version", PYTHON, "--only-binary=:all:"]
        command += [word for platform in platforms for word in ("--platform", platform)]
        subprocess.run([*command, "--no-deps", TORCH], check=True)
        subprocess.run([*command, "--constraint", str(CONSTRAINTS), *WHEELS], check=True)

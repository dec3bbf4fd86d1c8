"""From LLVM IR to the address of machine code: optimise, make object code (or find it in the cache), load.

LLVM's ORC loads the objects, with JITLink: it links a cached object in a fraction of a millisecond without compiling
anything. Code and constants of one object lie in one block of memory, so the small code model is safe, and it is the
fast one: a constant is an operand, not an address in a register. Code stays for as long as somebody holds its
`Library`: whoever has an address has to. That of routines, which all networks share, stays until the process ends.
"""

import collections
import contextlib
import ctypes
import dataclasses
import functools
import gc
import hashlib
import itertools
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from treadle import approximations
from treadle.compiler import program, walk
from treadle.engines.cpu.machine import disk_cache
from treadle.engines.cpu.machine.target import Target, host
from treadle.errors import EngineError
from treadle.locks import MAKING

PASSES = "always_inliner", "sroa", "instruction_combine", "simplify_cfg"
"""What LLVM does with a module, whose loops, vectors and blocks are written as they should run: without these passes
numbers that stay in registers would be in memory, and elementary functions would be calls. A level of LLVM's takes ten
times as long, and the code is no faster."""
MACHINE_LEVEL = 2
"""How hard LLVM tries when it chooses instructions and registers."""

# What LLVM may call for loops and stores that fill or copy memory; memmove does all that memcpy does.
RUNTIME = {"memset": ctypes.memset, "memcpy": ctypes.memmove, "memmove": ctypes.memmove}
if sys.platform != "win32":
    RUNTIME["bzero"] = ctypes.CDLL(None).bzero  # on macOS, to fill with zeros

DEFINITION = re.compile(r'^define (?!internal |private )[^@\n]*@"?([^"(\n]+)"?\(', re.MULTILINE)

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()

_libraries: "weakref.WeakValueDictionary[str, Library]" = weakref.WeakValueDictionary()
_recalled: "weakref.WeakValueDictionary[str, Library]" = weakref.WeakValueDictionary()  # by what the text follows from
_routines: "set[Library]" = set()
_gone: "collections.deque[llvm.ResourceTracker]" = collections.deque()
_linker: llvm.LLJIT | None = None
_numbers = itertools.count()  # ORC wants a new name for each library


@dataclasses.dataclass
class Counts:
    """Where the machine code of this process comes from.

    Attributes:
        compiled: texts that LLVM has compiled.
        read: objects that were on disk.
    """

    compiled: int = 0
    read: int = 0


counts = Counts()


class Library:
    """Machine code in memory, for as long as this object lives; so long live the libraries whose functions it calls."""

    def __init__(self, tracker: llvm.orcjit.ResourceTracker, names: Sequence[str], called: "Iterable[Library]" = ()):
        self._called = tuple(set(called))
        self._addresses = {name: tracker[name] for name in names}
        weakref.finalize(self, _let_go, tracker).atexit = False

    def address(self, name: str) -> int:
        """Where the function of that name begins: what ``ctypes.CFUNCTYPE(...)`` takes."""
        if name not in self._addresses:
            raise EngineError(f"the code has no function {name!r}, it defines {', '.join(self._addresses)}")
        return self._addresses[name]


def _let_go(tracker: llvm.orcjit.ResourceTracker) -> None:
    """Free code that nobody has any more; if another thread makes some at the moment, it does that."""
    _gone.append(tracker)
    if MAKING.acquire(blocking=False):
        try:
            _free()
        finally:
            MAKING.release()


def _free() -> None:
    """Free what is gone; hold the lock, or a child that is forked meanwhile would wait for LLVM's."""
    while _gone:
        _gone.popleft().close()


def compile(ir_text: str, target: Target | None = None) -> Library:
    """The machine code of a module of LLVM IR: compiled once on a machine, loaded once in a process, never freed.

    It is a routine's. Functions may call each other and LLVM's intrinsics, nothing else; triple and data layout are set
    here. Safe to call from several threads.

    Raises:
        EngineError: LLVM refuses the text, or cannot load the code.
    """
    target = target or host()
    names = DEFINITION.findall(ir_text)
    library = _library(_key(ir_text, target), names, lambda: _object_code(ir_text, target))
    _routines.add(library)
    return library


def recall(
    description: str,
    names: Sequence[str],
    write: Callable[[], str],
    target: Target,
    called: "Callable[[], Mapping[str, Library]]" = dict,
) -> Library:
    """The same for a text that takes long to write, and is written only where its code is not yet known.

    The description, which the text follows from, and the sources of this engine and of programs lead to the key of the
    text, and that to the code. So where a change of the sources leaves a text as it was, it is written again, but not
    compiled. The text defines the functions ``names``, and may call those of other libraries, which ``called`` gives by
    name. It is freed with the last reference to the library.
    """
    sources = _sources()
    described = _key(f"{sources}\0{description}", target)
    if library := _recalled.get(described):
        return library
    with MAKING:
        library = _recalled.get(described)
        key = disk_cache.read_name(described) if library is None and sources is not None else None
        if library is None and key:
            library = _known(key, names, called)
        if library is None:
            with _no_collection():
                text = write()
            key = _key(text, target)
            library = _library(key, names, lambda: _object_code(text, target), called)
            if sources is not None:
                disk_cache.write_name(described, key)
        _recalled[described] = library
    return library


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python does not look for garbage meanwhile; hold the lock.

    A text begins as tens of thousands of objects in circles, which are garbage together when it is written. Found half
    written they count as old, and whenever a quarter more objects are old, Python looks through all of PyTorch's.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def routine(description: str, names: Sequence[str], write: Callable[[], str], target: Target) -> Library:
    """The same for a text that all networks share: never freed."""
    library = recall(description, names, write, target)
    _routines.add(library)
    return library


def remembers(what: str) -> bool:
    """Whether it was kept on disk that something, of which this is a checksum, was found right; see `remember`."""
    key = _verdict(what)
    return key is not None and disk_cache.read_name(key) == key


def remember(what: str) -> None:
    """Keep on disk that something was found right, with these sources and on this CPU."""
    key = _verdict(what)
    if key is not None:
        disk_cache.write_name(key, key)


def _verdict(what: str) -> str | None:
    sources = _all_sources()
    return None if sources is None else _key(f"{sources}\0found right\0{what}", host())


@functools.cache
def _all_sources() -> str | None:
    """A checksum of all that decides what a network gives, or None where it cannot be read."""
    return _checksum_of(Path(__file__).parents[2], Path(program.__file__).parents[1])


@functools.cache
def _sources() -> str | None:
    """A checksum of the files that decide what is written, or None where they cannot be read."""
    engine, nests = Path(__file__).parents[1], Path(__file__).parents[2] / "passes"
    formulas = Path(approximations.__file__)
    return _checksum_of(engine, nests, formulas, Path(program.__file__).parent, Path(walk.__file__))


def _checksum_of(*places: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        for place in places:
            for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
                digest.update(path.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


def _library(
    key: str,
    names: Sequence[str],
    make: Callable[[], bytes],
    called: "Callable[[], Mapping[str, Library]]" = dict,
) -> Library:
    if library := _libraries.get(key):
        return library
    with MAKING:
        library = _known(key, names, called)
        if library is None:
            code = make()
            counts.compiled += 1
            disk_cache.write(key, code)
            library = _libraries[key] = _load(code, names, called())
    return library


def _known(key: str, names: Sequence[str], called: "Callable[[], Mapping[str, Library]]") -> Library | None:
    """What this process has loaded, or the disk keeps; hold the lock."""
    library = _libraries.get(key)
    if library is None and (code := disk_cache.read(key)) is not None:
        counts.read += 1
        library = _libraries[key] = _load(code, names, called())
    return library


def _key(ir_text: str, target: Target) -> str:
    """What the object code depends on, in one word."""
    passes = f"{', '.join(PASSES)}, O{MACHINE_LEVEL}"
    versions = f"llvmlite {llvmlite.__version__}, LLVM {llvm.llvm_version_info}, {passes}"
    parts = ir_text, target.triple, target.cpu, target.features, versions
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def assembly(ir_text: str, target: Target) -> str:
    """The machine code of a module of LLVM IR as text, of any CPU that LLVM was initialised for.

    Raises:
        EngineError: LLVM refuses the text.
    """
    with _optimised(ir_text, target) as (machine, module):
        return machine.emit_assembly(module)


def _object_code(ir_text: str, target: Target) -> bytes:
    with _optimised(ir_text, target) as (machine, module):
        return machine.emit_object(module)


@contextlib.contextmanager
def _optimised(ir_text: str, target: Target) -> Iterator[tuple[llvm.TargetMachine, llvm.ModuleRef]]:
    """What makes code for a CPU, and a module that is optimised for it."""
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=MACHINE_LEVEL, reloc="pic", codemodel="small", jit=True
    )
    try:
        # A context of its own goes with its types and constants; the global one would grow with each module.
        with llvm.create_context() as context, llvm.parse_assembly(ir_text, context) as module:
            module.triple = target.triple
            module.data_layout = str(machine.target_data)
            module.verify()
            passes = llvm.create_new_module_pass_manager()
            for name in PASSES:
                getattr(passes, f"add_{name}_pass")()
            passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
            yield machine, module
    except RuntimeError as error:
        raise EngineError(f"LLVM refuses the code that was generated, a bug of treadle: {_one_line(error)}") from error


def _load(code: bytes, names: Sequence[str], called: Mapping[str, Library]) -> Library:
    global _linker
    _free()
    if _linker is None:
        # LLVM's older linker puts each section where there is room, and code cannot reach its constants over 2 GB:
        # beside large maps, such as Ray's, it then ends the process. On Windows JITLink is not complete. It prints the
        # names of missing symbols, which its errors leave out.
        _linker = llvm.create_lljit_compiler(use_jit_link=sys.platform != "win32")
    builder = llvm.JITLibraryBuilder().add_object_img(code)
    for name, function in RUNTIME.items():
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        builder.import_symbol(name, address)
    for name, library in called.items():
        builder.import_symbol(name, library.address(name))
    for name in names:
        builder.export_symbol(name)
    try:
        return Library(builder.link(_linker, f"treadle {next(_numbers)}"), names, called.values())
    except RuntimeError as error:
        raise EngineError(f"LLVM cannot load the code that it made: {_one_line(error)}") from error


def _one_line(error: RuntimeError) -> str:
    return " ".join(str(error).split())

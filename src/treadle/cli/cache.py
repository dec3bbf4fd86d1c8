"""`treadle cache`: the compiled kernels on this machine's disk."""

from typing import Annotated

import typer


def cache(clear: Annotated[bool, typer.Option("--clear", help="Delete the kernels.")] = False) -> None:
    """Show the folder and size of the cache of compiled kernels, or delete them.

    Deleted kernels are compiled again when they are needed. The environment variable TREADLE_CACHE sets another
    folder.
    """
    from treadle.engines.cpu.machine import disk_cache

    kernels, size = disk_cache.clear() if clear else disk_cache.size()
    print(f"folder   {disk_cache.folder()}")
    print(f"{'deleted' if clear else 'kernels'}  {kernels}")
    print(f"{'freed' if clear else 'size'}{'':<{4 if clear else 5}}{size / 1e6:.2f} MB")

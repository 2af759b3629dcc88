"""Compiles a kernel of training/kernels for this very processor, once, and loads it.

In    the name of a kernel: training/kernels/NAME.cpp, plain C++ with functions declared extern "C".
Out   a ctypes library; the compiled file is kept in ~/.cache/redheart_hf ($XDG_CACHE_HOME, if that is set).
Run   `python -c "from training.native import load_kernel; print(load_kernel('adamw_8bit'))"`

It needs a C++ compiler, g++ or clang++ ($CXX, if that is set). What was compiled is found again by the kernel's text,
the compiler's version and the processor's abilities, so that a home folder may be shared between machines.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from preprocessing.errors import UserError

KERNELS = Path(__file__).resolve().parent / "kernels"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
WITH_TORCH = {"held_memory"}
"""Kernels that torch calls: they are compiled with its headers and linked with its core."""
OTHERWISE = {"adamw_8bit": "--optimizer adamw", "held_memory": "--hold_memory off"}
LINUX_PROCESSOR = Path("/proc/cpuinfo")


@cache
def load_kernel(name: str) -> ctypes.CDLL:
    """The compiled kernel; raises UserError when there is no compiler, or it does not compile."""
    source = KERNELS / f"{name}.cpp"
    compiler = find_compiler(name)
    library = cache_folder() / f"{name}-{fingerprint(source, compiler)}.so"
    if not library.is_file():
        compile_kernel(compiler, source, library)
    return ctypes.CDLL(str(library))


def has_compiler() -> bool:
    return compiler_here() is not None


def compiler_here() -> str | None:
    """The path of $CXX, if that is set, else of the first compiler found; None where there is none."""
    wanted = os.environ.get("CXX")
    return shutil.which(wanted) if wanted else next(filter(None, map(shutil.which, COMPILERS)), None)


def find_compiler(name: str) -> str:
    wanted, found = os.environ.get("CXX"), compiler_here()
    if found is None:
        looked_for = f"$CXX is {wanted!r}, which is no program here" if wanted else f"none of {', '.join(COMPILERS)}"
        raise UserError(
            f"{name} is compiled for this machine and needs a C++ compiler ({looked_for}): install one "
            f"(Debian, Ubuntu, WSL: apt install g++), or choose {OTHERWISE.get(name, 'another')}"
        )
    return found


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redheart_hf"


def fingerprint(source: Path, compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, stdin=subprocess.DEVNULL).stdout
    abilities = b""
    if LINUX_PROCESSOR.is_file():
        lines = LINUX_PROCESSOR.read_bytes().splitlines()
        abilities = b"\n".join(sorted({line for line in lines if line.startswith((b"model name", b"flags"))}))
    told = " ".join((*flags_of(source.stem), torch.__version__))
    return hashlib.sha256(b"\0".join((source.read_bytes(), told.encode(), version, abilities))).hexdigest()[:16]


def flags_of(name: str) -> list[str]:
    """What the compiler is told; libraries come last. Compilers prefer half the width that AVX-512 has, since wide
    instructions once slowed a processor down."""
    wide = ["-mprefer-vector-width=512"] if os.uname().machine == "x86_64" else []
    home = Path(torch.__file__).parent
    of_torch = [f"-I{home}/include", f"-L{home}/lib", f"-Wl,-rpath,{home}/lib", "-lc10"] if name in WITH_TORCH else []
    return [*FLAGS, *wide, *of_torch]


def compile_kernel(compiler: str, source: Path, library: Path) -> None:
    """Put `library` there whole; two processes that compile at once do the same work twice, and no harm."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [compiler, str(source), "-o", str(built), *flags_of(source.stem)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise UserError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-2000:]}")
        built.replace(library)

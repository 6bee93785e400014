"""How the processor of this machine computes products of 8-bit numbers."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# Instruction sets that add products of unsigned and signed 8-bit numbers in 32 bits.
EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
X86 = frozenset({"x86_64", "AMD64", "i386", "i686"})


def processor_name() -> str:
    """Name the processor; its architecture where the system does not name it."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


@functools.cache
def saturates() -> bool:
    """Whether a sum of two products of 8-bit numbers saturates at 16 bits on this processor.

    x86 processors without VNNI multiply with `vpmaddubsw`, which saturates: weights of 8 bits can give wrong products,
    weights of 7 bits cannot. Other processors add in 32 bits. An x86 processor with unknown instruction sets counts as
    saturating.
    """
    if platform.machine() not in X86:
        return False
    return not (_flags(CPU_INFO) & EXACT)


def _flags(path: Path) -> set[str]:
    """Read the instruction sets from Linux's list; empty on other systems."""
    if not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())

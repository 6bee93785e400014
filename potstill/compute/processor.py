"""What this machine's processor does with products of 8-bit numbers."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# Instructions that add products of unsigned and signed 8-bit numbers in 32 bits.
EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
X86 = frozenset({"x86_64", "AMD64", "i386", "i686"})


@functools.cache
def saturates() -> bool:
    """Whether a sum of two products of 8-bit numbers is cut off at 16 bits here.

    x86 processors without VNNI multiply with `vpmaddubsw`, which saturates: full 8-bit weights then give wrong
    products, 7-bit weights cannot. Other processors add in 32 bits. An x86 processor whose instructions are not known
    counts as one that saturates.
    """
    if platform.machine() not in X86:
        return False
    return not (_flags(CPU_INFO) & EXACT)


def _flags(path: Path) -> set[str]:
    """The instruction sets that Linux names; none on other systems."""
    if not path.exists():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())

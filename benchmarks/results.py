"""Shared by the benchmarks: the machine's name, ratios with their spread, sections of RESULTS.md."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
# The processor's flags that decide how fast matrix products are.
_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
)


def machine() -> str:
    """Return the processor's name and its number of cores."""
    model = next(iter(_cpuinfo("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores"


def flags() -> str:
    """Return the processor's flags that matter for matrix products, space-separated."""
    available = " ".join(_cpuinfo("flags")[:1] + _cpuinfo("Features")[:1]).split()
    return " ".join(flag for flag in _FLAGS if flag in available) or "flags unknown"


def versions(*packages: str) -> str:
    """Return `name version` of each package."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def today() -> str:
    """Return the date of a measurement."""
    return str(datetime.date.today())


def spread(ratios: Sequence[float], digits: int = 1) -> str:
    """Format median and range of ratios that were taken within rounds."""
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(ratios), min(ratios), max(ratios)))
    return f"{middle}× ({low}–{high})"


def publish(mark: str, section: str, *, write: bool) -> None:
    """Print a section, and put it between the two marks in RESULTS.md if asked."""
    print(section)
    if not write:
        return
    before, _, after = RESULTS.read_text(encoding="utf-8").split(mark)
    RESULTS.write_text(f"{before}{mark}\n{section}\n{mark}{after}", encoding="utf-8")


def _cpuinfo(key: str) -> list[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key) and ":" in line]

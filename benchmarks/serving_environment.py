"""The size of a Bento's environment on disk: its pins, installed as BentoML's image installs them.

`python benchmarks/serving.py --environment` measures it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from potstill.serving.launch import bento_path

LARGEST = 6


def environment_size(tag: str) -> list[str]:
    """Return Markdown: MB (1e6 bytes, whole blocks) of an environment with a Bento's pins, and its largest packages."""
    requirements = bento_path(tag) / "env/python/requirements.txt"
    uv = str(Path(sys.executable).parent / "uv")
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "environment"
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], env=variables, check=True)
        command = [
            uv,
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--link-mode",
            "copy",
            "--python",
            str(folder / "bin/python"),
        ]
        subprocess.run([*command, "-r", str(requirements)], env=variables, check=True)
        sizes: Counter[str] = Counter()
        (packages,) = folder.glob("lib/python*/site-packages")
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                in_package = path.is_relative_to(packages)
                package = path.relative_to(packages).parts[0] if in_package else "the rest"
                sizes[package] += path.stat().st_blocks * 512
        count = len(list(packages.glob("*.dist-info")))
    largest = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in sizes.most_common(LARGEST))
    return [f"{sizes.total() / 1e6:.0f} MB on disk, {count} packages with their bytecode; the largest: {largest}."]

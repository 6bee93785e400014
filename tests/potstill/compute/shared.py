"""Work of two processes in one start: `torchrun -m tests.potstill.compute.shared <base> <folder>`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.potstill.distillation import shared as extraction
from tests.potstill.training import shared as training


def main() -> None:
    """Run every training, and an extraction of signals."""
    base, folder = map(Path, sys.argv[1:])
    training.main(base, folder)
    extraction.main(folder)


if __name__ == "__main__":
    main()

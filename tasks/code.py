"""Stage code: writes `code.yaml`, by which DVC sees that a stage's code or params are others. It always runs.

No stage contract around it: it takes milliseconds, and nothing of it is worth a run in MLflow.
"""

from __future__ import annotations

import sys
from pathlib import Path

from potstill.config.params_file import load_params
from potstill.errors import PotstillError
from tasks.identity import write_code_file


def main() -> None:
    """Write `code.yaml` of the workspace that is the current folder."""
    try:
        write_code_file(Path(), load_params(Path("params.yaml")))
    except PotstillError as error:
        print(f"code: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

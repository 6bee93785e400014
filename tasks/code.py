"""code: writes `code.yaml`, by which DVC sees that a stage's code or params have changed. It always runs.

It runs without the stage contract: it takes milliseconds, and there is nothing to record in MLflow.
"""

from __future__ import annotations

import sys
from pathlib import Path

from potstill.config.params_file import load_params
from potstill.errors import PotstillError
from potstill.paths import PARAMS
from tasks.identity import write_code_file


def main() -> None:
    """Write `code.yaml` of the workspace in the current folder."""
    try:
        write_code_file(Path(), load_params(PARAMS))
    except PotstillError as error:
        print(f"code: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""Runs the trials and prints what came of them: `python -m tests.chaos [--tries N] [--only GROUP] [--write]`."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.results import machine
from tests.chaos.trial_table import TRIALS, Trial

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "reliability.md"
MARK = "<!-- trials -->"
HEAD = "| broken | where | should | did | on |\n|---|---|---|---|---|"


@dataclass(eq=False)  # pytest keeps its plugins by identity
class Repeat:
    """A pytest plugin that repeats the tests of the trials and counts how they end.

    Attributes:
        tries: node of a test -> how often it is repeated.
        passed: node of a test -> tries that ended as they should.
        failed: node of a test -> all others.
    """

    tries: dict[str, int]
    passed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    @pytest.fixture
    def number_of_try(self, request: pytest.FixtureRequest) -> int:
        """The number of the repetition, which the name of the test carries."""
        return int(request.param)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.fixturenames.append("number_of_try")
        tries = range(self.tries.get(metafunc.definition.nodeid, 0))  # the module's other tests are not asked for
        metafunc.parametrize("number_of_try", tries, indirect=True, ids=lambda number: f"try-{number}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid.partition("[")[0]
        if report.when == "call" and report.passed:
            self.passed[test] += 1
        elif not report.passed:  # an error of a fixture, or a trial that cannot be made here
            self.failed[test] += 1

    def ended(self, test: str) -> str:
        """How often a test ended as it should."""
        return f"{self.passed[test]} of {self.passed[test] + self.failed[test]}"


def rows(trials: list[Trial], results: Repeat) -> dict[str, str]:
    """The start of the row of each trial that was made -> the whole row."""
    return {
        trial.row: f"{trial.row} {results.ended(trial.test)} | {datetime.date.today()} |"
        for trial in trials
        if results.passed[trial.test] + results.failed[trial.test]
    }


def write(made: dict[str, str]) -> None:
    """Put rows into the page; those of other trials stay as they are there."""
    before, table, after = PAGE.read_text(encoding="utf-8").split(MARK)
    lines = {trial.row: line for line in table.splitlines() for trial in TRIALS if line.startswith(trial.row)} | made
    ordered = [lines[trial.row] for trial in TRIALS if trial.row in lines]
    PAGE.write_text(
        f"{before}{MARK}\nOn {machine()}.\n\n" + "\n".join([HEAD, *ordered, f"{MARK}{after}"]), encoding="utf-8"
    )


def main() -> int:
    """Run the trials; the exit code is 1 if any ended otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--tries", type=int, help="at most so many of each; by default as the table of trials says")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[""], help="groups, or parts of names of tests")
    parser.add_argument("--write", action="store_true", help=f"put the rows into {PAGE.relative_to(REPOSITORY)}")
    arguments = parser.parse_args()
    trials = [trial for trial in TRIALS if any(name == trial.group or name in trial.test for name in arguments.only)]
    results = Repeat({trial.test: min(trial.tries, arguments.tries or trial.tries) for trial in trials})
    code = pytest.main(["-q", "--rootdir", str(REPOSITORY), *results.tries], plugins=[results])
    made = rows(trials, results)
    print("", HEAD, *made.values(), sep="\n")
    if arguments.write:
        write(made)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

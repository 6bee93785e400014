"""The finished parts of an output: one for each window next to it, and a manifest that says whose output it is.

The manifest is written first and names inputs, model and settings. A part is whole or not there, so a run that was
killed goes on with the windows that have none. At the end the parts are joined to the output, the manifest gets the
summary, and the parts are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.artifacts import disk_errors, make_folder, read_json, remove_file, sha256_file, whole_file, write_json
from potstill.compute.processes import hold
from potstill.errors import ChecksumError, FormatError, OutputError
from potstill.prediction.output_rows import OutputRows
from potstill.prediction.window_tally import Facts, WindowTally

_FORMAT = 1
# Rows and bytes of a row group of Parquet, to which parts are joined.
_GROUP_ROWS = 2**16
_GROUP_BYTES = 2**25


class OutputParts:
    """The output of a run, and what is kept next to it.

    Args:
        output: the file to write.

    Attributes:
        path: of the output in its file system, as fsspec names it.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = str(output.resolve())
        self.rejected = Path(f"{output}.rejected.jsonl")
        self.explained = Path(f"{output}.explained.jsonl")
        self.manifest = Path(f"{output}.manifest.json")
        self.folder = Path(f"{output}.parts")
        self._lock = self.folder / "lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing the same output.

        Raises:
            BusyError: another process writes it.
            OutputError: nothing can be written there.
        """
        with writing_errors(self.output):
            make_folder(self.folder)
        with hold(self._lock, what=f"predicting {self.output}"):
            try:
                yield
            finally:
                if list(self.folder.iterdir()) == [self._lock]:
                    self._lock.unlink()
                    with suppress(OSError):  # another process has made a lock of its own there
                        self.folder.rmdir()

    def begin(self, run: Facts) -> Facts | None:
        """Begin a run, or go on with it.

        Args:
            run: what the output depends on, as plain values.

        Returns:
            The summary if the output is complete; else None.

        Raises:
            OutputError: the output belongs to another run.
            ChecksumError: it is complete, but was altered.
        """
        if not self.manifest.exists():
            if self.output.exists():
                raise already_there(self.output)
            self._remove_parts()  # of a run whose manifest is gone
            with writing_errors(self.output):
                write_json(self.manifest, manifest_value(run))
            return None
        manifest = self._read_manifest()
        check_run(manifest, run, self.output)
        summary: Facts | None = manifest.get("summary")
        if summary is None or not self.output.exists():
            return None
        if sha256_file(self.output) != summary["sha256"]:
            raise ChecksumError(f"{self.output} was altered after it was written; delete it to compute it again")
        if run.get("explain") is not None and not self.explained.exists():
            return None
        self._remove_parts()
        return summary

    def summary(self) -> tuple[Facts, Facts] | None:
        """Read of a complete output what it depends on and its summary; None: there is none."""
        if not self.manifest.exists() or not self.output.exists():
            return None
        manifest = self._read_manifest()
        summary = manifest.get("summary")
        return None if summary is None else (manifest["run"], summary)

    def _read_manifest(self) -> Facts:
        with writing_errors(self.output):
            return parse_manifest(self.manifest.read_text("utf-8", "replace"), self.output)

    def finished(self) -> set[int]:
        """List the numbers of the windows that have a part."""
        return {int(path.stem) for path in self.folder.glob("*.json")}

    def facts(self, number: int) -> Facts:
        """Read the facts of a window that has a part."""
        facts: Facts = read_json(_facts_path(self.folder, number))
        return facts

    def schema(self, number: int, schema: pa.Schema | None) -> pa.Schema:
        """Unify the schema of a part of Parquet with that of others.

        Raises:
            FormatError: the values of a column have no type in common.
        """
        added = pq.read_schema(_part_path(self.folder, number))
        with _type_errors():
            return added if schema is None else pa.unify_schemas([schema, added], promote_options="permissive")

    def join(self, windows: int, rows: OutputRows, tally: WindowTally, run: Facts) -> Facts:
        """Join all parts to the output, and complete the manifest.

        Args:
            windows: number of windows.
            rows: writes the rows.
            tally: empty; the facts of all windows are added in order.
            run: as for `begin`.

        Returns:
            The summary.

        Raises:
            ChecksumError: a part was altered.
            FormatError: the values of a column have no type in common.
        """
        with writing_errors(self.output):
            with (
                whole_file(self.output) as output,
                whole_file(self.rejected) as rejected,
                closing(self._joined(windows, rows, output)) as joined,
            ):
                for facts in joined:
                    tally.add(facts)
                    _write_rejected(facts, rejected)
            if not tally.sums["rejected"]:
                self.rejected.unlink()
            summary = {**tally.to_json(), "sha256": sha256_file(self.output)}
            write_json(self.manifest, manifest_value(run, summary))
        self._remove_parts()
        return summary

    def _joined(self, windows: int, rows: OutputRows, output: IO[bytes]) -> Generator[Facts]:
        """Write the parts one after the other, and yield the facts of each."""
        with self._joining(windows, rows, output) as add:
            add(rows.header())
            for number in range(windows):
                facts = self.facts(number)
                path = _part_path(self.folder, number)
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() != facts["sha256"]:
                    raise ChecksumError(
                        f"{path} was altered after it was written; delete it and {path.stem}.json, run again"
                    )
                add(content)
                yield facts

    @contextmanager
    def _joining(self, windows: int, rows: OutputRows, output: IO[bytes]) -> Iterator[Callable[[bytes], object]]:
        """Yield what adds the content of a part to the output."""
        if rows.format != "parquet":
            yield output.write
            return
        schema = None
        for number in range(windows):
            schema = self.schema(number, schema)
        with pq.ParquetWriter(output, schema) as writer:
            joiner = _ParquetJoiner(writer)
            yield joiner.add
            joiner.write()

    def write_explained(self, rows: Iterable[Facts]) -> None:
        """Write a line for each answer that is explained."""
        with writing_errors(self.output), whole_file(self.explained) as handle:
            for row in rows:
                handle.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())

    def write_rejected(self) -> int:
        """Write the rows that the finished windows have put aside, where the run ends because they are too many."""
        with writing_errors(self.output), whole_file(self.rejected) as handle:
            return sum(_write_rejected(self.facts(number), handle) for number in sorted(self.finished()))

    def discard(self) -> None:
        """Remove what a run has written that will have no output."""
        if not self.output.exists():
            self._remove_files()
        self._remove_parts()

    def tidy(self) -> None:
        """Remove what a run that was killed after it had completed the output has left of its parts.

        Raises:
            BusyError: another process is about to remove them.
        """
        if self.folder.exists():
            with self.held():
                self._remove_parts()

    def _remove_files(self) -> None:
        """Remove the output and all files next to it."""
        for path in (self.output, self.rejected, self.explained, self.manifest):
            remove_file(path)

    def _remove_parts(self) -> None:
        """Remove all parts; the lock stays as long as it is held."""
        for path in self.folder.iterdir():
            if path != self._lock:
                path.unlink()


def manifest_value(run: Facts, summary: Facts | None = None) -> Facts:
    """Return the manifest of an output as plain values; without a summary the output is not complete."""
    return {"format": _FORMAT, "run": run} | ({} if summary is None else {"summary": summary})


def parse_manifest(text: str, output: Path | str) -> Facts:
    """Parse the manifest of an output, which is named by its path or URL.

    Raises:
        OutputError: it is none.
    """
    try:
        manifest: Facts = json.loads(text)
        if manifest["format"] == _FORMAT and isinstance(manifest["run"], dict):
            return manifest
    except (ValueError, TypeError, KeyError):
        pass
    raise OutputError(
        f"{output}.manifest.json is no manifest of this version of `potstill predict`; name another output"
    )


def check_run(manifest: Facts, run: Facts, output: Path | str) -> None:
    """Check that an output is that of a run.

    Raises:
        OutputError: it belongs to another run.
    """
    difference = _first_difference(manifest["run"], run)
    if difference is not None:
        raise OutputError(
            f"{output} belongs to another run: {difference}; name another output, or delete {output}.manifest.json "
            "and what is next to it to begin anew"
        )


def already_there(output: Path | str) -> OutputError:
    """Return the error for an output without a manifest."""
    return OutputError(f"{output} is there already, and `potstill predict` did not write it; name another output")


def write_part(folder: Path, number: int, content: bytes, facts: Facts) -> None:
    """Write the part of a window, and its facts after it.

    Raises:
        DiskFullError, OutputError: it cannot be written.
    """
    with writing_errors(folder, len(content)):
        with whole_file(_part_path(folder, number)) as handle:
            handle.write(content)
        write_json(_facts_path(folder, number), {**facts, "sha256": hashlib.sha256(content).hexdigest()})


@contextmanager
def writing_errors(target: Path, needed: int = 0) -> Iterator[None]:
    """Turn what the file system refuses into one sentence.

    Args:
        target: what is written.
        needed: bytes that it takes at least, if known.

    Raises:
        DiskFullError: the disk is full.
        OutputError: a file cannot be written for another reason.
    """
    try:
        with disk_errors(target, needed):
            yield
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror or error}); name another output") from error


class _ParquetJoiner:
    """Joins parts of Parquet to larger row groups of one schema."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._waiting: list[pa.Table] = []

    def add(self, content: bytes) -> None:
        if content:
            self._waiting.append(pq.read_table(pa.BufferReader(content)))
        rows = sum(map(len, self._waiting))
        if rows >= _GROUP_ROWS or sum(table.nbytes for table in self._waiting) >= _GROUP_BYTES:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        if self._waiting:
            with _type_errors():
                table = pa.concat_tables(
                    [self._writer.schema.empty_table(), *self._waiting], promote_options="permissive"
                )
            self._writer.write_table(table, row_group_size=max(len(table), 1))
            self._waiting = []


@contextmanager
def _type_errors() -> Iterator[None]:
    """Turn what columns without a common type fail with into one sentence."""
    try:
        yield
    except pa.ArrowException as error:
        raise FormatError(
            f"the rows have values of several types in one column ({' '.join(str(error).split())[:120]}), which "
            "Parquet cannot hold; write JSON lines (--out with .jsonl), or leave the column out with --columns"
        ) from error


def _write_rejected(facts: Facts, handle: IO[bytes]) -> int:
    """Write a line for each row that a window has put aside; return their number."""
    for row, line, reason in facts["rejected"]:
        where = {"row": row} if line is None else {"row": row, "line": line}
        handle.write(f"{json.dumps({'file': facts['file'], **where, 'reason': reason}, ensure_ascii=False)}\n".encode())
    return len(facts["rejected"])


def _first_difference(before: Facts, now: Facts) -> str | None:
    """Say what the run of an output depended on and this one does not, or None."""
    for name in dict.fromkeys((*now, *before)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name == "inputs":
            return "its input files are others, or have changed since"
        return f"{name} {json.dumps(old, ensure_ascii=False)} there, {json.dumps(new, ensure_ascii=False)} here"
    return None


def _part_path(folder: Path, number: int) -> Path:
    return folder / f"{number:07d}.part"


def _facts_path(folder: Path, number: int) -> Path:
    return folder / f"{number:07d}.json"

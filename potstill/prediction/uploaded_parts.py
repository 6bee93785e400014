"""The output at a URL: computed on this machine as any other, and uploaded whole when it is complete.

The manifest there is written before anything is computed, and once more at the end, when it has the summary. So an
output whose upload was interrupted is not complete, and belongs to its run all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from potstill.artifacts import canonical_json, sha256_text
from potstill.errors import ChecksumError, OutputError, PotstillError, redacted
from potstill.inference.window_store import UrlStore, file_system
from potstill.paths import PREDICTED
from potstill.prediction.input_files import cause_of, state_of
from potstill.prediction.output_parts import OutputParts, already_there, check_run, manifest_value, parse_manifest
from potstill.prediction.output_rows import OutputRows
from potstill.prediction.window_tally import Facts, WindowTally


class UploadedParts(OutputParts):
    """The output of a run at a URL, and what is kept on this machine until it is complete.

    Args:
        url: of the output, which fsspec knows.

    Raises:
        ToolError: the kind of the URL is unknown, or its package is not installed.
        OutputError: it names no folder or bucket, or its server does not answer.
    """

    def __init__(self, url: str) -> None:
        folder, _, name = url.rpartition("/")
        if "://" not in folder:
            raise OutputError(f"{redacted(url)} names no folder or bucket; write it as scheme://folder/{name}")
        super().__init__(PREDICTED / sha256_text(url)[:16] / name)
        self._url = redacted(url)  # for messages
        with self._storing():
            self._files, self.path = file_system(url)
            self._store = UrlStore(folder)
        self._folder = self.path.rpartition("/")[0]

    @contextmanager
    def held(self) -> Iterator[None]:  # noqa: D102
        try:
            with super().held():
                yield
        finally:
            with suppress(OSError):  # not empty: the next run goes on
                self.output.parent.rmdir()

    def begin(self, run: Facts) -> Facts | None:  # noqa: D102
        with self._storing():
            stored = self._stored_manifest(run)
            if stored is None:
                if self._files.exists(self.path):
                    raise already_there(self._url)
                self._forget()  # of a run whose manifest is gone
                self._write_manifest(manifest_value(run))
            elif "summary" in stored and self._is_whole(stored["files"]):
                self._forget()
                summary: Facts = stored["summary"]
                return summary
        computed = super().begin(run)
        return None if computed is None else self._upload(run, computed)

    def join(self, windows: int, rows: OutputRows, tally: WindowTally, run: Facts) -> Facts:  # noqa: D102
        return self._upload(run, super().join(windows, rows, tally, run))

    def discard(self) -> None:  # noqa: D102
        super().discard()
        with self._storing():
            if not self._files.exists(self.path):
                self._store.remove(self.manifest.name)

    def _upload(self, run: Facts, summary: Facts) -> Facts:
        """Upload what is complete on this machine, and remove it here."""
        paths = [path for path in (self.output, self.rejected, self.explained) if path.exists()]
        with self._storing():
            for path in paths:
                self._files.put_file(str(path), f"{self._folder}/{path.name}")
            states = {path.name: self._state(path.name) for path in paths}
            if states[self.output.name]["size"] != self.output.stat().st_size:
                raise OutputError(f"{self._url} was not written whole; run again to upload it once more")
            self._write_manifest(manifest_value(run, summary) | {"files": states})
        self._forget()
        return summary

    def _stored_manifest(self, run: Facts) -> Facts | None:
        """Read the manifest at the URL, which has to be that of this run; None: there is none."""
        try:
            text = self._store.read(self.manifest.name)
        except FileNotFoundError:
            return None
        manifest = parse_manifest(text, self._url)
        check_run(manifest, run, self._url)
        return manifest

    def _write_manifest(self, manifest: Facts) -> None:
        self._store.write(self.manifest.name, canonical_json(manifest))

    def _is_whole(self, states: Facts) -> bool:
        """Whether all files that were uploaded are there.

        Raises:
            ChecksumError: a file was altered.
        """
        for name, state in states.items():
            if not self._files.exists(f"{self._folder}/{name}"):
                return False
            if self._state(name) != state:
                raise ChecksumError(
                    f"{name} next to {self._url} was altered after it was written; delete it to compute it again"
                )
        return True

    def _state(self, name: str) -> Facts:
        """What changes when a stored file does."""
        self._files.invalidate_cache()
        info = self._files.info(f"{self._folder}/{name}")
        return {"size": info["size"], "state": state_of(info)}

    def _forget(self) -> None:
        """Remove what is on this machine; the lock stays as long as it is held."""
        self._remove_files()
        self._remove_parts()

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Turn what a store fails with into one sentence; its libraries raise exceptions of many types.

        Raises:
            OutputError: nothing can be read or written at the URL.
        """
        try:
            yield
        except PotstillError:
            raise
        except Exception as error:
            raise OutputError(
                f"{self._url} cannot be written ({cause_of(error)}); check the URL and that it may be written, and run "
                "again to go on"
            ) from error

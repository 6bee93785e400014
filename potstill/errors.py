"""The errors that a user can cause: each has an exit code and a one-sentence message with what happened and what to do.

The codes are part of the command line's contract (docs/errors.md lists them). A code never gets a new meaning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_USER_OF_URL = re.compile(r"(?<=://)[^/\s]*@")


def redacted(text: str) -> str:
    """Replace user and password of every URL in a text by `***`, since no message or file shows them."""
    return _USER_OF_URL.sub("***@", text)


def without_user(url: str) -> str:
    """Remove user and password from a URL."""
    return _USER_OF_URL.sub("", url)


def first_names(names: Sequence[str], most: int) -> str:
    """List the first names for a sentence, and say how many more there are."""
    unnamed = len(names) - most
    return ", ".join(names[:most]) + (f" and {unnamed} more" if unnamed > 0 else "")


class PotstillError(Exception):
    """A failure whose cause the user can act on. `str(error)` is the whole message; it is shown without a traceback."""

    exit_code = 1


class ParamsError(PotstillError):
    """An unknown key, a wrong type or an impossible combination in params.yaml or `--set`."""

    exit_code = 3


class BusyError(PotstillError):
    """Another run holds the workspace, or another process changes the registry."""

    exit_code = 4


class DiskFullError(PotstillError):
    """No space is left on the device."""

    exit_code = 5


class TimeLimitError(PotstillError):
    """A stage, step or run went past its time limit and was killed with all processes that it had started."""

    exit_code = 6


class GateRefusedError(PotstillError):
    """The candidate failed a gate; the champion is untouched."""

    exit_code = 7


class ApprovalPendingError(PotstillError):
    """The candidate passed and is registered, but waits: a person has to approve it, or has frozen promotion."""

    exit_code = 8


class FetchError(PotstillError):
    """A source could not be fetched."""

    exit_code = 9


class ChecksumError(PotstillError):
    """A file does not have the checksum that its manifest or params name."""

    exit_code = 10


class UnsafeFileError(PotstillError):
    """A file of pickled weights, or in another format that can run code when it is opened."""

    exit_code = 11


class SignatureError(PotstillError):
    """A signature is missing or does not verify, or a key or certificate cannot be used."""

    exit_code = 12


class MissingColumnError(PotstillError):
    """A column that params name is not in the data."""

    exit_code = 20


class EmptyDataError(PotstillError):
    """The data has no rows: the file is empty, has only a header, or cleaning removed every row."""

    exit_code = 21


class LabelError(PotstillError):
    """Labels are outside the declared set, or missing where they are needed."""

    exit_code = 22


class OneClassError(PotstillError):
    """All rows have the same label."""

    exit_code = 23


class SmallClassError(PotstillError):
    """Classes have too few rows to be in every split, or the random split leaves them out; the message names them."""

    exit_code = 24


class EncodingError(PotstillError):
    """The file is not UTF-8."""

    exit_code = 25


class NulByteError(PotstillError):
    """The file contains NUL bytes."""

    exit_code = 26


class CellSizeError(PotstillError):
    """A cell is longer than params allow."""

    exit_code = 27


class DuplicateRowsError(PotstillError):
    """All rows are identical."""

    exit_code = 28


class LeakageError(PotstillError):
    """Too many test rows of predefined splits are also in train."""

    exit_code = 29


class FormatError(PotstillError):
    """The file cannot be read in its format, or the format is not supported."""

    exit_code = 30


class ExpectationError(PotstillError):
    """Expectations about the data failed; the message names each with its limit and its key in params."""

    exit_code = 31


class RejectedRowsError(PotstillError):
    """Too many rows of the files to predict cannot be read or have no text."""

    exit_code = 32


class OutputError(PotstillError):
    """The file to write is there already and belongs to another run, or it cannot be written."""

    exit_code = 33


class StreamError(PotstillError):
    """A stream is away or not there, or what is named is no stream."""

    exit_code = 34


class ModelError(PotstillError):
    """A model folder cannot be used as params ask: its class, layers or sizes do not fit."""

    exit_code = 40


class LabelCountError(PotstillError):
    """The labels of a fine-tuned teacher are not those of the data, or its predictions do not fit them."""

    exit_code = 41


class SequenceLengthError(PotstillError):
    """`tokenize.max_length` exceeds the model's position embeddings."""

    exit_code = 42


class TrainingError(PotstillError):
    """Training stopped: a loss or gradient is NaN or infinite, or a batch does not fit into memory."""

    exit_code = 43


class SignalError(PotstillError):
    """A signal store belongs to another teacher or lacks rows, or the teacher cannot provide what a loss needs."""

    exit_code = 44


class ParityError(PotstillError):
    """The exported model does not predict what the trained one does."""

    exit_code = 45


class TokenizationError(PotstillError):
    """The tokenizer or the sequence limit does not fit the texts: many unknown tokens, or many truncated texts."""

    exit_code = 46


class RegistryError(PotstillError):
    """The state of the registry does not allow the step."""

    exit_code = 50


class PackageError(PotstillError):
    """The Bento could not be built."""

    exit_code = 51


class SmokeError(PotstillError):
    """The built Bento did not start, or its answers differ from those that were evaluated."""

    exit_code = 52


class StoreError(PotstillError):
    """MLflow's store is not reachable, does not answer, or refuses the user."""

    exit_code = 53


class DriftError(PotstillError):
    """The texts or answers of the service have drifted from what was evaluated, or its accuracy has dropped."""

    exit_code = 54


class NotifyError(PotstillError):
    """A receiver of notifications was not told, which only `potstill notify` ends with."""

    exit_code = 55


class LostProcessError(PotstillError):
    """A process, node or worker of a stage was lost more often than params allow, or never joined it."""

    exit_code = 56


class PublishError(PotstillError):
    """A run could not send or receive its data, its dvc.lock or its commit, or has no remote for them."""

    exit_code = 57


class ToolError(PotstillError):
    """A tool, package, right or setting of this machine is missing; `potstill doctor` says which."""

    exit_code = 60


INTERRUPTED = 130

"""Every error a user can cause: one sentence that says what happened, where and what to do, and an exit code.

The codes are part of the command line's contract (docs/errors.md lists them); a code is never given a new meaning.
"""

from __future__ import annotations


class PotstillError(Exception):
    """A failure with a cause the user can act on. `str(error)` is the whole message, without a traceback."""

    exit_code = 1


class ParamsError(PotstillError):
    """An unknown key, a wrong type or an impossible combination in params.yaml or `--set`."""

    exit_code = 3


class BusyError(PotstillError):
    """Another run holds the workspace, or another process changes the registry."""

    exit_code = 4


class DiskFullError(PotstillError):
    """No space left on the device."""

    exit_code = 5


class TimeLimitError(PotstillError):
    """A stage ran past its time limit and was killed with everything it had started."""

    exit_code = 6


class GateRefusedError(PotstillError):
    """The candidate failed a gate; the champion is untouched."""

    exit_code = 7


class ApprovalPendingError(PotstillError):
    """The candidate passed and is registered; a person has to approve it, or has frozen promotion."""

    exit_code = 8


class FetchError(PotstillError):
    """A source could not be fetched."""

    exit_code = 9


class ChecksumError(PotstillError):
    """A file's bytes are not the ones its manifest or params name."""

    exit_code = 10


class UnsafeFileError(PotstillError):
    """Pickled weights or another format that can run code when it is opened."""

    exit_code = 11


class MissingColumnError(PotstillError):
    """A column named in params is not in the data."""

    exit_code = 20


class EmptyDataError(PotstillError):
    """No rows: an empty file, a header only, or nothing left after cleaning."""

    exit_code = 21


class LabelError(PotstillError):
    """Labels outside the declared set, or missing where they are needed."""

    exit_code = 22


class OneClassError(PotstillError):
    """All rows carry the same label."""

    exit_code = 23


class SmallClassError(PotstillError):
    """Classes have too few rows to be in every split, or the draw leaves them out; the sentence names them all."""

    exit_code = 24


class EncodingError(PotstillError):
    """The file is not UTF-8."""

    exit_code = 25


class NulByteError(PotstillError):
    """The file contains NUL bytes."""

    exit_code = 26


class CellSizeError(PotstillError):
    """One cell is longer than params allow."""

    exit_code = 27


class DuplicateRowsError(PotstillError):
    """All rows are copies of each other."""

    exit_code = 28


class LeakageError(PotstillError):
    """Too many test rows of given splits are in train."""

    exit_code = 29


class FormatError(PotstillError):
    """The file cannot be read in its format, or the format is not supported."""

    exit_code = 30


class ExpectationError(PotstillError):
    """Great Expectations failed; all that failed is named, with limit and key."""

    exit_code = 31


class ModelError(PotstillError):
    """A model folder that cannot be used as params ask: class, layers, sizes."""

    exit_code = 40


class LabelCountError(PotstillError):
    """A fine-tuned teacher's labels are not the data's labels, or its answers are not about them."""

    exit_code = 41


class SequenceLengthError(PotstillError):
    """`tokenize.max_length` is beyond the model's positions."""

    exit_code = 42


class TrainingError(PotstillError):
    """Training stopped: a NaN or infinite loss or gradient, or memory that does not hold a batch."""

    exit_code = 43


class SignalError(PotstillError):
    """A signal store that is another teacher's or lacks rows, or a teacher that cannot give what a loss needs."""

    exit_code = 44


class ParityError(PotstillError):
    """The exported model does not answer as the trained one does."""

    exit_code = 45


class TokenizationError(PotstillError):
    """A tokenizer or a sequence limit that does not fit the texts: many unknown tokens, or many texts cut."""

    exit_code = 46


class RegistryError(PotstillError):
    """The registry's state does not allow the step."""

    exit_code = 50


class PackageError(PotstillError):
    """The Bento could not be built."""

    exit_code = 51


class SmokeError(PotstillError):
    """The built Bento did not start or did not answer as evaluated."""

    exit_code = 52


class StoreError(PotstillError):
    """MLflow's store is away, does not answer, or refuses the user."""

    exit_code = 53


class DriftError(PotstillError):
    """The texts or answers of the service are no longer those the model was evaluated on, or it is right less often."""

    exit_code = 54


class ToolError(PotstillError):
    """A tool or setting of this machine is missing; `potstill doctor` says which."""

    exit_code = 60


INTERRUPTED = 130

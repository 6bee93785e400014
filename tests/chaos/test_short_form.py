"""One try of each kind of trial that no other test makes, with all other tests; `make chaos` makes all of them."""

import pytest

from tests.chaos.flipped_bytes import (
    test_a_bento,
    test_a_checkpoint,
    test_a_line_of_the_ledger,
    test_an_artifact_of_mlflow,
    test_an_out,
    test_the_cache_of_dvc,
)
from tests.chaos.full_disks import disk, test_checkpoints, test_the_store_of_mlflow, test_the_watch_folder
from tests.chaos.full_disks import test_the_cache_of_dvc as test_the_cache_of_dvc_on_a_full_disk
from tests.chaos.kills import test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before
from tests.chaos.poisoned import test_a_file_of_the_system_is_no_data, test_a_pickle_is_never_loaded

pytestmark = pytest.mark.slow

__all__ = [
    "disk",
    "test_a_bento",
    "test_a_checkpoint",
    "test_a_file_of_the_system_is_no_data",
    "test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before",
    "test_a_line_of_the_ledger",
    "test_a_pickle_is_never_loaded",
    "test_an_artifact_of_mlflow",
    "test_an_out",
    "test_checkpoints",
    "test_the_cache_of_dvc",
    "test_the_cache_of_dvc_on_a_full_disk",
    "test_the_store_of_mlflow",
    "test_the_watch_folder",
]

from __future__ import annotations

import math
from pathlib import Path

import pytest

from potstill.artifacts import write_json, write_manifest
from potstill.data.validation.profiles import accept_profile, build_profile, drift, psi, read_accepted
from potstill.errors import ChecksumError, FormatError

LENGTHS = {"train": list(range(1, 501)), "transfer": []}
LABELS = {"train": ["a"] * 250 + ["b"] * 250}


def test_psi_by_hand() -> None:
    assert psi([0.5, 0.5], [0.5, 0.5]) == 0
    assert psi([0.5, 0.5], [0.9, 0.1]) == pytest.approx(0.4 * math.log(1.8) - 0.4 * math.log(0.2))
    assert psi([1.0, 0.0], [0.0, 1.0]) == pytest.approx(2 * 0.9999 * math.log(1e4), rel=1e-3)


def test_same_data_has_not_moved_and_empty_splits_are_left_out() -> None:
    assert drift(build_profile(LENGTHS, LABELS), LENGTHS, LABELS) == {"train length": 0.0, "train label": 0.0}


def test_longer_texts_and_a_new_label_are_a_shift() -> None:
    profile = build_profile(LENGTHS, LABELS)
    actual = drift(profile, {"train": list(range(250, 750))}, {"train": ["a"] * 250 + ["c"] * 250})
    assert actual["train length"] > 0.25
    assert actual["train label"] > 0.25


def test_equal_lengths_make_a_profile_too() -> None:
    lengths = {"train": [5] * 100}
    assert drift(build_profile(lengths, {}), lengths, {}) == {"train length": 0.0}
    assert drift(build_profile(lengths, {}), {"train": [6] * 100}, {})["train length"] > 0.25


def test_accepted_profile_is_verified(tmp_path: Path) -> None:
    profile = build_profile(LENGTHS, LABELS)
    write_json(tmp_path / "profile.json", profile)
    with pytest.raises(ChecksumError):
        accept_profile(tmp_path)
    write_manifest(tmp_path)
    assert accept_profile(tmp_path) == profile
    (tmp_path / "profile.json").write_text("{}")
    with pytest.raises(ChecksumError):
        accept_profile(tmp_path)


def test_what_is_no_profile_is_named(tmp_path: Path) -> None:
    (tmp_path / "accepted.json").write_text("<<<<<<< HEAD\n{}\n")
    with pytest.raises(FormatError, match="not a profile"):
        read_accepted(tmp_path / "accepted.json")
    with pytest.raises(FormatError, match="not a profile"):
        drift({"rows": 1}, LENGTHS, LABELS)

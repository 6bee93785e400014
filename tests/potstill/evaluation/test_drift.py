from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.artifacts import canonical_json
from potstill.config.serving_params import Watch
from potstill.errors import ModelError
from potstill.evaluation.drift import Drift, Windows, estimate, judge, pool, read_windows
from potstill.evaluation.pages.drift_page import render_drift
from potstill.inference.profile import Correctness, Counts, Moments, Observation, Profile
from potstill.inference.window_store import COUNTS, PROFILE, FolderStore
from tests.potstill.inference.test_profile import model_card, prediction, profile_of

RIGHT = 0.9
ABOUT = model_card()


def texts(
    count: int,
    seed: int,
    *,
    words: int = 8,
    sure: float = 0.9,
    tokens: Sequence[int] = range(2, 400),
    moved: float = 0.0,
) -> list[Observation]:
    """Random texts of a calibrated model: it says `yes` to half of them and is as sure as `sure` on average. `moved` is
    how far their sentence embeddings lie from others', in standard deviations.
    """
    random, vectors = np.random.default_rng(seed), np.random.default_rng(seed).normal(moved, 1, size=(count, 16))
    rows = []
    for vector in vectors.tolist():
        ids = [1, *random.choice(tokens, size=random.poisson(words) + 1).tolist()]
        p = float(np.clip(random.beta(20 * sure, 20 * (1 - sure)), 0.5, 1))
        label = "yes" if random.random() < 0.5 else "no"
        rows.append(Observation("x" * (5 * len(ids)), ids, replace(prediction(label, p, 1 - p), sketch=tuple(vector))))
    return rows


@pytest.fixture(scope="module")
def profile() -> Profile:
    rows = texts(1500, 0)
    right = np.random.default_rng(1).random(1500) < RIGHT
    return profile_of(rows, ABOUT, right.astype(np.float64))


def window(profile: Profile, rows: Sequence[Observation], at: float = 0.0) -> dict[str, Any]:
    counts = Counts(profile)
    counts.add(rows, ABOUT)
    psi = {name: counts.shift(name)[0] for name in profile.features}
    header = {"format": 1, "profile": profile.sum, "start": at, "end": at + 60, "psi": psi, "bento": "n:1"}
    return header | counts.to_json()


def verdict_of(profile: Profile, *parts: Sequence[Observation], **watch: Any) -> Drift:
    windows = [window(profile, rows, 60.0 * at) for at, rows in enumerate(parts)]
    return judge(Windows(profile, windows, 0), Watch(**watch))


def drifting(judged: Drift) -> set[str]:
    return {one.feature for one in judged.findings if one.drifts}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_texts_of_the_same_kind_do_not_drift(profile: Profile, seed: int) -> None:
    judged = verdict_of(profile, texts(400, 10 + seed), texts(400, 20 + seed))
    assert (judged.verdict, drifting(judged)) == ("no drift", set())
    assert (judged.texts, judged.windows) == (800, 2)
    assert (judged.start, judged.end) == (0, 120)
    assert judged.sentence.startswith("no drift: 800 texts are like the test texts; estimated accuracy ")
    assert [part["texts"] for part in judged.history] == [400, 400]


@pytest.mark.slow
def test_longer_texts_drift_in_their_lengths(profile: Profile) -> None:
    judged = verdict_of(profile, texts(600, 3, words=14))
    assert judged.verdict == "drift"
    assert {"tokens", "characters"} <= drifting(judged)
    assert "tokens (PSI " in judged.sentence
    # What is over its limit by chance is not named.
    small = verdict_of(profile, texts(100, 3, words=11), min_texts=100)
    for one in small.findings:
        if one.drifts:
            named = small.sentence.split(f"{one.feature} (")[1].split(")")[0]
            assert ("PSI" in named) is (one.psi > max(0.25, one.psi_by_chance))
            assert ("KS" in named) is (one.ks is not None and one.ks > max(0.2, one.ks_by_chance or 0))
    assert drifting(small)


@pytest.mark.slow
def test_other_words_of_the_same_length_drift_in_their_sketch_alone(profile: Profile) -> None:
    judged = verdict_of(profile, texts(600, 3, tokens=range(2, 20)))
    assert drifting(judged) == {"vector"}


@pytest.mark.slow
def test_the_same_words_in_another_sense_drift_in_their_embeddings_alone(profile: Profile) -> None:
    assert drifting(verdict_of(profile, texts(600, 3, moved=0.8))) == {"embedding"}


@pytest.mark.slow
def test_unknown_words_and_another_share_of_labels_drift(profile: Profile) -> None:
    assert "unknown" in drifting(verdict_of(profile, texts(600, 3, tokens=[0, 7, 8])))
    rows = [Observation(one.text, one.ids, prediction("yes", 0.9, 0.1)) for one in texts(600, 5)]
    assert "label" in drifting(verdict_of(profile, rows))


@pytest.mark.slow
def test_a_model_that_is_less_sure_is_right_less_often(profile: Profile) -> None:
    judged = verdict_of(profile, texts(1000, 3, sure=0.75), max_psi=None, max_ks=None)
    assert judged.verdict == "drift"
    assert judged.estimate is not None
    assert judged.estimate.drifts
    assert judged.estimate.tested == pytest.approx(RIGHT, abs=0.02)
    assert judged.estimate.accuracy == pytest.approx(RIGHT - 0.15, abs=0.03)
    assert "the model is right less often; estimated accuracy" in judged.sentence
    assert verdict_of(
        profile, texts(1000, 3, sure=0.75), max_psi=None, max_ks=None, max_accuracy_drop=None
    ).verdict == ("no drift")


def test_the_estimate_is_the_measured_accuracy_on_the_test_texts_and_its_interval_holds(profile: Profile) -> None:
    random, inside = np.random.default_rng(2), 0
    for _ in range(400):
        test, served = 0.5 + random.beta(4, 2, size=500) / 2, 0.5 + random.beta(3, 3, size=800) / 2
        right = (random.random(500) < test - 0.05).astype(np.float64)  # surer than right by 5 points
        measured = Correctness(share=Moments().with_values(right), gap=Moments().with_values(right - test))
        header = profile.model_copy(update={"right": measured})
        same, judged = (estimate(header, Moments().with_values(sure), None) for sure in (test, served))
        assert same is not None
        assert same.accuracy == pytest.approx(right.mean())
        assert judged is not None
        assert judged.accuracy == pytest.approx(served.mean() + (right - test).mean())
        inside += judged.low <= 0.75 - 0.05 <= judged.high
    assert inside / 400 == pytest.approx(0.95, abs=0.03)


@pytest.mark.slow
def test_fewer_texts_than_asked_for_have_no_verdict(profile: Profile) -> None:
    judged = verdict_of(profile, texts(100, 3, words=30), min_texts=200)
    assert (judged.verdict, judged.sentence) == (
        "too few texts", "no verdict: 100 texts were counted, watch.min_texts is 200",
    )  # fmt: skip
    assert judge(Windows(profile, [], 0), Watch()).verdict == "too few texts"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_small_sample_is_not_called_a_change_by_its_noise(profile: Profile, seed: int) -> None:
    limits: dict[str, Any] = {"max_psi": 0.01, "max_ks": 0.01, "max_accuracy_drop": None}
    judged = verdict_of(profile, texts(100, 60 + seed), min_texts=100, **limits)
    assert max(one.psi for one in judged.findings) > 0.2
    assert judged.verdict == "no drift"


@pytest.mark.slow
def test_windows_are_read_newest_last_and_those_of_another_profile_left_out(profile: Profile, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "w")
    assert read_windows(store, 3) is None
    store.write(PROFILE, canonical_json(profile.model_dump(mode="json")))
    for at in range(5):
        written = window(profile, texts(10, at), float(at))
        store.write(f"2026-{at}{COUNTS}", json.dumps(written | ({"profile": "other"} if at == 3 else {})))
    stored = read_windows(store, 3)
    assert stored is not None
    assert ([part["start"] for part in stored.windows], stored.left_out) == ([2.0, 4.0], 1)
    assert pool(stored).texts == 20
    assert judge(stored, Watch()).left_out == 1


class Counted(FolderStore):
    """A folder that remembers what was read of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []

    def read(self, name: str) -> str:
        self.asked.append(name)
        return super().read(name)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2, "profile": "x"}', "{}", "bad counts", "no psi", "bytes"])
def test_a_damaged_file_is_left_out_and_older_windows_are_not_read(
    profile: Profile, tmp_path: Path, content: str
) -> None:
    store = Counted(tmp_path / "w")
    store.write(PROFILE, canonical_json(profile.model_dump(mode="json")))
    written = [window(profile, texts(10, at), float(at)) for at in range(5)]
    for at, whole in enumerate(written):
        store.write(f"2026-{at}{COUNTS}", json.dumps(whole))
    broken = {
        "bad counts": json.dumps(written[3] | {"counts": {}}),
        "no psi": json.dumps({key: value for key, value in written[3].items() if key != "psi"}),
    }
    store.write(f"2026-0{COUNTS}", "an old one that is damaged too")
    store.write(f"2026-3{COUNTS}", broken.get(content, content))
    if content == "bytes":
        (tmp_path / f"w/2026-3{COUNTS}").write_bytes(b"\xff\xfe")
    stored = read_windows(store, 2)
    assert stored is not None
    assert [part["start"] for part in stored.windows] == [2.0, 4.0]
    assert store.asked == [PROFILE, *(f"2026-{at}{COUNTS}" for at in (4, 3, 2))]
    assert judge(stored, Watch()).damaged == [f"2026-3{COUNTS}"]


def test_a_profile_that_is_none_is_refused(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "w")
    store.write(PROFILE, "{}")
    with pytest.raises(ModelError, match=r"profile\.json is no profile"):
        read_windows(store, 1)


@pytest.mark.slow
def test_the_page_shows_every_feature_and_distribution(profile: Profile) -> None:
    stored = Windows(profile, [window(profile, texts(600, 3, words=14))], 0)
    page = render_drift("reviews", judge(stored, Watch()), profile, pool(stored))
    assert page.count("<svg") == 5  # of the sketch's directions none
    assert "tokens drifts" in page
    assert "600 served texts in 1 windows, 1970-01-01 00:00 UTC to 1970-01-01 00:01 UTC; 1,500 test texts" in page
    empty = Windows(profile, [], 0)
    assert "no verdict" in render_drift("reviews", judge(empty, Watch()), profile, pool(empty))

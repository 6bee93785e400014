"""Tests of promotion, among them one for each known pitfall of MLflow (ANCHORS.md)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from urllib.parse import urlparse

import pytest

from potstill.artifacts import file_sums, verify
from potstill.errors import ApprovalPendingError, ChecksumError, RegistryError
from potstill.registry import tracking
from potstill.registry.lease import Lease
from potstill.registry.promotion import Registry
from potstill.registry.steps import Steps, edited_tags
from potstill.registry.versions import CHALLENGER, CHAMPION, GATE, PARAMS, PREVIOUS
from tests.registries import PASSED, PROJECT, REFUSED, add_version, new_store

pytestmark = pytest.mark.slow


def source(registry: Registry, version: str) -> Path:
    return Path(urlparse(registry.get(version).source).path)


def aliases(registry: Registry) -> dict[str, str | None]:
    versions = {alias: registry.by_alias(alias) for alias in (CHAMPION, CHALLENGER, PREVIOUS)}
    return {alias: version.version if version else None for alias, version in versions.items()}


def test_from_candidate_to_champion(registry: Registry) -> None:
    assert registry.champion() is None
    first = add_version(registry, "one")
    assert aliases(registry) == {CHAMPION: None, CHALLENGER: "1", PREVIOUS: None}
    registry.promote(first.version, expected=None)
    assert aliases(registry) == {CHAMPION: "1", CHALLENGER: None, PREVIOUS: None}
    second = add_version(registry, "two")
    registry.promote(second.version, expected="1")
    assert aliases(registry) == {CHAMPION: "2", CHALLENGER: None, PREVIOUS: "1"}
    assert not registry.history().open


def test_a_version_is_known_by_its_bento_after_its_alias_has_moved_on(registry: Registry) -> None:
    tag = add_version(registry, "a").bento
    add_version(registry, "b", bento="potstill-movie-reviews:b")
    assert tag is not None
    assert registry.get(tag).version == "1"
    with pytest.raises(RegistryError, match="no version 'potstill-movie-reviews:c'"):
        registry.get("potstill-movie-reviews:c")


def test_a_candidate_is_not_registered_twice(registry: Registry) -> None:
    first = add_version(registry, "one", bento="potstill-x:1")
    again = add_version(registry, "one", bento="potstill-x:2")
    assert (again.version, again.bento) == (first.version, "potstill-x:2")
    assert len(registry.versions()) == 1


def test_the_second_of_two_writers_fails_although_mlflow_lets_both_succeed(registry: Registry) -> None:
    for content in ("one", "two", "three"):
        add_version(registry, content)
    registry.promote("1", expected=None)
    registry.promote("2", expected="1")
    with pytest.raises(RegistryError, match="is version 2 now, not 1"):
        registry.promote("3", expected="1")
    assert aliases(registry)[CHAMPION] == "2"


def test_the_second_of_two_runs_with_the_same_candidate_finds_it_promoted(registry: Registry) -> None:
    add_version(registry, "one")
    registry.promote("1", expected=None)
    lines = len(registry.ledger.lines())
    assert registry.promote("1", expected=None).version == "1"
    assert len(registry.ledger.lines()) == lines
    with pytest.raises(RegistryError, match="is version 1 now, not none"):
        registry.promote("1", expected=None, person=True)


def test_a_capitalised_alias_is_not_the_champion(registry: Registry) -> None:
    add_version(registry, "one")
    tracking.client(registry.workspace).set_registered_model_alias(PROJECT, "Champion", "1")
    assert registry.champion() is None


def test_a_champion_deleted_by_hand_is_detected(registry: Registry) -> None:
    add_version(registry, "one")
    add_version(registry, "two")
    registry.promote("2", expected=None)
    tracking.client(registry.workspace).delete_model_version(PROJECT, "2")
    assert registry.by_alias(CHAMPION) is None
    with pytest.raises(RegistryError, match="version 2 was promoted last"):
        registry.champion()
    registry.promote("1", expected=None)
    champion = registry.champion()
    assert champion is not None
    assert champion.version == "1"


def test_a_deleted_champion_can_be_vetoed(registry: Registry) -> None:
    add_version(registry, "one")
    registry.promote("1", expected=None)
    tracking.client(registry.workspace).delete_model_version(PROJECT, "1")
    registry.veto("1", "it was deleted by mistake")
    assert registry.champion() is None


def test_a_version_without_files_is_ready_in_mlflow_but_not_promoted(registry: Registry) -> None:
    version = add_version(registry, "one")
    shutil.rmtree(source(registry, "1"))
    assert tracking.client(registry.workspace).get_model_version(PROJECT, "1").status == "READY"
    with pytest.raises(RegistryError, match="are gone"):
        registry.promote(version.version, expected=None)
    assert registry.champion() is None
    assert not registry.history().open


def test_a_flipped_bit_that_mlflow_would_download_is_detected(registry: Registry) -> None:
    add_version(registry, "one")
    path = source(registry, "1") / "data/serving/model.onnx"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ChecksumError, match=r"model\.onnx is altered"):
        registry.fetch("1")
    with pytest.raises(ChecksumError):
        registry.promote("1", expected=None)


def test_a_swapped_model_with_a_valid_manifest_is_detected(registry: Registry) -> None:
    add_version(registry, "one")
    add_version(registry, "two")
    shutil.rmtree(source(registry, "1") / "data")
    shutil.copytree(source(registry, "2") / "data", source(registry, "1") / "data")
    with pytest.raises(ChecksumError, match="does not hold the bytes it was registered with"):
        registry.fetch("1")


def test_a_fetched_folder_is_verified_on_each_fetch(registry: Registry) -> None:
    add_version(registry, "one")
    folder = registry.fetch(CHALLENGER)
    (folder / "model.onnx").write_bytes(b"rot")
    assert registry.fetch("1") == folder
    assert (folder / "model.onnx").read_bytes() == b"one" * 100


def test_commands_that_fetch_the_same_version_at_once_all_get_it(registry: Registry) -> None:
    add_version(registry, "one")
    together = Barrier(3)

    def fetch(_: int) -> Path:
        together.wait()
        return registry.fetch("1")

    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            (folder,) = set(pool.map(fetch, range(3)))
            verify(folder)
            shutil.rmtree(folder)


def test_a_version_that_did_not_pass_never_becomes_champion(registry: Registry) -> None:
    refused = add_version(registry, "one", evidence=REFUSED)
    with pytest.raises(RegistryError, match="no passed gate"):
        registry.promote(refused.version, expected=None)
    for evidence in (
        "",
        "passed",
        '{"passed": true}',
        '{"passed": true, "checks": []}',
        '{"passed": 1, "checks": [1]}',
    ):
        version = add_version(registry, "two", evidence=evidence)
        with pytest.raises(RegistryError, match="no passed gate"):
            registry.promote(version.version, expected=None)


def test_a_veto_is_permanent_and_restores_the_previous_champion(registry: Registry) -> None:
    add_version(registry, "one")
    add_version(registry, "two")
    registry.promote("1", expected=None)
    registry.promote("2", expected="1")
    assert registry.veto("2", "it shouts") == "1"
    assert aliases(registry) == {CHAMPION: "1", CHALLENGER: None, PREVIOUS: None}
    with pytest.raises(RegistryError, match="it shouts"):
        registry.promote("2", expected="1")
    with pytest.raises(RegistryError, match="vetoed"):
        add_version(registry, "two")
    with pytest.raises(RegistryError, match="no version '9'"):
        registry.veto("9", "no such")
    for version in ("9", "9" * 30, "loudest", ""):  # no database takes the second for an integer
        with pytest.raises(RegistryError, match=f"no version '{version}'"):
            registry.approve(version, "no such")


def crash(*_: object, **__: object) -> None:
    raise SystemExit("killed here")


@pytest.mark.parametrize("call", ["create_logged_model", "log_model_artifacts", "create_model_version"])
def test_a_registration_interrupted_before_the_version_leaves_nothing_open(
    workspace: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(workspace, PROJECT)
    with monkeypatch.context() as patch:
        patch.setattr(tracking.client(workspace), call, crash)
        with pytest.raises(SystemExit):
            add_version(registry, "one")
    shutil.rmtree(workspace / "models")
    # Files are uploaded before anything is announced.
    sentences = registry.reconcile()
    assert len(sentences) == (1 if call == "create_model_version" else 0)
    assert all("nothing to undo" in sentence for sentence in sentences)
    assert registry.reconcile() == []
    assert add_version(registry, "one").version == "1"


def test_a_registration_interrupted_after_the_version_is_finished(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(workspace, PROJECT)
    with monkeypatch.context() as patch:
        patch.setattr(tracking.client(workspace), "set_registered_model_alias", crash)
        with pytest.raises(SystemExit):
            add_version(registry, "one")
    assert "version 1 is registered" in registry.reconcile()[0]
    assert aliases(registry)[CHALLENGER] == "1"


@pytest.mark.parametrize("calls_before_the_crash", [0, 1])
def test_an_interrupted_promotion_is_finished(
    workspace: Path, calls_before_the_crash: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(workspace, PROJECT)
    add_version(registry, "one")
    add_version(registry, "two")
    registry.promote("1", expected=None)
    store = tracking.client(workspace)
    set_alias = store.set_registered_model_alias
    calls_left = [calls_before_the_crash]

    def some_then_crash(*arguments: str) -> None:
        if not calls_left[0]:
            crash()
        calls_left[0] -= 1
        set_alias(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, "set_registered_model_alias", some_then_crash)
        with pytest.raises(SystemExit):
            registry.promote("2", expected="1")
    assert aliases(registry)[CHAMPION] == "1"
    assert "version 2 is champion" in registry.reconcile()[0]
    assert aliases(registry) == {CHAMPION: "2", CHALLENGER: None, PREVIOUS: "1"}


def test_an_interrupted_promotion_is_undone_if_it_may_not_be_finished(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(workspace, PROJECT)
    for content in ("one", "two"):
        add_version(registry, content)
    registry.promote("1", expected=None)
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "close", crash)
        with pytest.raises(SystemExit):
            registry.promote("2", expected="1")
    assert aliases(registry)[CHAMPION] == "2"
    shutil.rmtree(source(registry, "2"))
    shutil.rmtree(workspace / ".work")
    assert "undone" in registry.reconcile()[0]
    assert aliases(registry) == {CHAMPION: "1", CHALLENGER: None, PREVIOUS: None}
    assert not registry.history().open


DECISIONS: dict[str, Callable[[Registry], object]] = {
    "promote": lambda registry: registry.promote("3", expected="2"),
    "rollback": lambda registry: registry.roll_back(None, "it shouts"),
    "veto": lambda registry: registry.veto("2", "it shouts"),
}


@pytest.mark.parametrize("action", list(DECISIONS))
def test_a_decision_interrupted_before_any_of_its_writes_is_atomic(
    registry: Registry, tmp_path: Path, action: str
) -> None:
    promote_all(registry, "one", "two")
    add_version(registry, "three")
    outcomes = []
    for writes in range(20):
        copy = tmp_path / str(writes)
        copy.mkdir()
        shutil.copyfile(registry.workspace / "mlflow.db", copy / "mlflow.db")
        clone = Registry(copy, PROJECT)
        finished = _decide_and_crash(clone, DECISIONS[action], writes)
        sentences = clone.reconcile()
        assert len(sentences) == (0 if finished or writes == 0 else 1)
        outcomes.append((champion(clone), aliases(clone)[PREVIOUS], len(clone.history().rolled_back)))
        if finished:
            break
    assert outcomes[0] == ("2", "1", 0)  # without its announcement the decision has not begun
    assert len(outcomes) > 3
    assert len(set(outcomes[1:])) == 1
    assert outcomes[1] != outcomes[0]


def _decide_and_crash(registry: Registry, decision: Callable[[Registry], object], writes: int) -> bool:
    """Make a decision that is killed after a number of writes; return whether it finished."""
    writes_left = iter(range(writes))

    def check(_: Lease) -> None:
        if next(writes_left, None) is None:
            crash()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lease, "check", check)
        try:
            decision(registry)
        except SystemExit:
            return False
    return True


def promote_all(registry: Registry, *contents: str) -> None:
    champion = None
    for content in contents:
        version = add_version(registry, content).version
        registry.promote(version, expected=champion)
        champion = version


def champion(registry: Registry) -> str | None:
    version = registry.champion()
    return version.version if version else None


@pytest.mark.parametrize("decision", ["roll_back", "approve"])
def test_a_version_that_a_person_rolled_back_is_not_promoted_again(registry: Registry, decision: str) -> None:
    promote_all(registry, "one", "two", "three")
    restored = registry.roll_back("1", "it shouts") if decision == "roll_back" else registry.approve("1")
    assert restored.version == champion(registry) == "1"
    assert aliases(registry)[PREVIOUS] is None
    for version in ("2", "3"):  # later champions are rolled back too
        with pytest.raises(
            ApprovalPendingError, match=f"version {version} .* was rolled back by .*@.*approve {version}"
        ):
            registry.promote(version, expected="1")
    # Another candidate is promoted, and a person can approve an older one.
    registry.promote(add_version(registry, "four").version, expected="1")
    assert (champion(registry), aliases(registry)[PREVIOUS]) == ("4", "1")
    with pytest.raises(ApprovalPendingError):
        registry.promote("3", expected="4")
    assert registry.approve("3").version == "3"  # older than 4, which is thereby rolled back
    assert registry.held_back(registry.get("4").candidate) is not None
    assert registry.held_back(registry.get("3").candidate) is None


def test_rollbacks_without_a_version_go_back_one_champion_at_a_time(registry: Registry) -> None:
    promote_all(registry, "one", "two", "three")
    assert registry.roll_back(None, "a").version == "2"
    assert registry.roll_back(None, "b").version == "1"
    with pytest.raises(RegistryError, match="no version that was champion before"):
        registry.roll_back(None, "c")
    with pytest.raises(RegistryError, match="is the champion already"):
        registry.roll_back("1", "d")


def test_a_frozen_registry_waits_for_a_person(registry: Registry) -> None:
    promote_all(registry, "one")
    add_version(registry, "two")
    registry.freeze("a fair is on")
    with pytest.raises(ApprovalPendingError, match=r"frozen by .* \(a fair is on\); `potstill approve 2`"):
        registry.promote("2", expected="1")
    assert champion(registry) == "1"
    assert registry.approve("2").version == "2"
    add_version(registry, "three")
    assert registry.unfreeze("it is over")
    assert not registry.unfreeze("it is over")
    assert registry.promote("3", expected="2").version == "3"


def test_a_veto_falls_back_to_a_version_that_verifies(registry: Registry) -> None:
    promote_all(registry, "one", "two", "three", "four")
    (source(registry, "3") / "data/serving/model.onnx").write_bytes(b"rot")
    registry.fetch("2")
    assert registry.veto("4", "a") == "2"  # 3 does not verify
    assert aliases(registry)[PREVIOUS] == "1"
    assert registry.veto("2", "b") == "1"
    assert registry.veto("1", "c") is None


def test_a_local_copy_does_not_hide_an_altered_file_in_the_registry(registry: Registry) -> None:
    add_version(registry, "one")
    registry.fetch("1")
    path = source(registry, "1") / "data/serving/model.onnx"
    path.write_bytes(b"other")
    with pytest.raises(ChecksumError) as refused:
        registry.approve("1")
    assert str(path) in str(refused.value)
    assert ".work" not in str(refused.value)


def test_a_version_with_an_altered_or_missing_bento_is_not_approved(registry: Registry) -> None:
    version = add_version(registry, "one")
    folder = source(registry, "1") / "bento" / str(version.bento).partition(":")[2]
    (folder / "bento.yaml").write_text("altered", encoding="utf-8")
    with pytest.raises(ChecksumError, match=r"bento\.yaml is altered"):
        registry.approve("1")
    shutil.rmtree(folder)
    with pytest.raises(RegistryError, match="are gone"):
        registry.approve("1")


@pytest.mark.parametrize("tag", [GATE, "potstill.bento", "potstill.candidate"])
def test_a_version_with_an_edited_tag_is_not_approved(registry: Registry, tag: str) -> None:
    add_version(registry, "one", evidence=REFUSED)
    registry.ledger.lines()
    tracking.client(registry.workspace).set_model_version_tag(PROJECT, "1", GATE, PASSED)
    with pytest.raises(RegistryError, match=r"potstill\.gate .* is not what was judged"):
        registry.approve("1")
    add_version(registry, "two")
    tracking.client(registry.workspace).set_model_version_tag(PROJECT, "2", tag, PASSED + " ")
    with pytest.raises(RegistryError, match=f"tag {tag} of version 2 .* is not what was judged"):
        registry.approve("2")


def test_an_alias_that_was_moved_by_hand_is_detected(registry: Registry) -> None:
    promote_all(registry, "one", "two")
    add_version(registry, "three")
    tracking.client(registry.workspace).set_registered_model_alias(PROJECT, CHAMPION, "3")
    with pytest.raises(RegistryError, match=r"points at version 3, .* moved by hand"):
        registry.champion()
    registry.approve("2")
    assert champion(registry) == "2"


def test_a_second_clone_sees_the_same_history_and_fetches_the_champions_bento(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_all(registry, "one", "two", "three")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri(registry.workspace))
    clone = Registry(tmp_path / "clone", PROJECT)
    assert clone.history() == registry.history()
    assert clone.veto("1", "not the champion") == "3"
    version = clone.champion()
    assert version is not None
    clone.fetch_bento(version, tmp_path / "bentoml/bento")
    files = file_sums(tmp_path / "bentoml/bento")
    assert verify(tmp_path / "bentoml/bento") == {}
    assert files["src/data/serving/manifest.json"] == version.candidate
    assert len(clone.versions()) == 3


def test_two_projects_share_a_store(tmp_path: Path) -> None:
    workspace = new_store(tmp_path)
    one, other = Registry(workspace, "one"), Registry(workspace, "other")
    add_version(one, "one")
    assert other.versions() == []


@pytest.mark.slow
def test_a_person_who_expects_another_champion_is_refused(registry: Registry) -> None:
    promote_all(registry, "one", "two")
    add_version(registry, "three")
    for expected in (None, "1"):
        with pytest.raises(RegistryError, match=f"is version 2 now, not {expected or 'none'} .*review 3"):
            registry.promote("3", expected=expected, person=True, reason="better on negations")
    assert champion(registry) == "2"
    registry.promote("3", expected="2", person=True, reason="better on\nnegations")
    line = registry.decision("3")
    assert line is not None
    assert (line.action, line.facts["reason"], line.facts["person"]) == ("promote", "better on negations", True)
    assert "champion_problem" not in line.facts
    assert registry.decision("9") is None


@pytest.mark.slow
def test_a_champion_that_cannot_be_restored_is_not_replaced_in_silence(registry: Registry) -> None:
    promote_all(registry, "one")
    add_version(registry, "two")
    (source(registry, "1") / "data/serving/model.onnx").write_bytes(b"rot")
    registry.approve("2", "the champion is damaged")
    line = registry.decision("2")
    assert line is not None
    assert "model.onnx is altered" in line.facts["champion_problem"]
    with pytest.raises(ChecksumError):
        registry.roll_back(None, "back")
    assert champion(registry) == "2"


@pytest.mark.slow
def test_a_tag_that_an_older_ledger_has_no_sum_of_is_not_missed(registry: Registry) -> None:
    version = add_version(registry, "one", tags={PARAMS: "{}"})
    facts = registry.history().registered["1"]
    assert edited_tags(facts, version.tags) == []
    assert edited_tags(facts, {**version.tags, PARAMS: "{ }"}) == [PARAMS]
    older = {key: value for key, value in facts.items() if key not in ("params", "data", "evidence")}
    assert edited_tags(older, {**version.tags, PARAMS: "{ }"}) == []
    tracking.client(registry.workspace).set_model_version_tag(PROJECT, "1", PARAMS, "{ }")
    with pytest.raises(RegistryError, match=r"tag potstill\.params of version 1"):
        registry.approve("1")


def test_of_a_candidate_that_another_clone_registers_first_one_upload_stays(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add_version(registry, "one")
    look = registry.by_candidate
    looks = iter([lambda _: None])  # at first the other one has not registered it yet
    monkeypatch.setattr(registry, "by_candidate", lambda candidate: next(looks, look)(candidate))
    assert add_version(registry, "one") == first
    assert len(list((registry.workspace / "mlartifacts").rglob("model.onnx"))) == 1
    registry.verify(first)

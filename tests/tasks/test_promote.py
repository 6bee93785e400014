from __future__ import annotations

from pathlib import Path

import pytest

from potstill.config.params import Params
from potstill.errors import ApprovalPendingError, RegistryError
from potstill.registry import tracking, versions
from potstill.registry.promotion import Registry
from potstill.registry.versions import CHALLENGER
from tasks.promote import promote
from tests.registries import register_candidate


@pytest.mark.slow
def test_a_person_approves_what_passed(default_params: Params, candidate: Path) -> None:
    by_person = default_params.model_copy(
        update={"promote": default_params.promote.model_copy(update={"policy": "person"})}
    )
    version = register_candidate(by_person, candidate)
    with pytest.raises(ApprovalPendingError, match="potstill approve 1"):
        promote(by_person, candidate, version.version, expected=None)
    assert Registry(candidate, "movie-reviews").champion() is None
    assert Registry(candidate, "movie-reviews").approve(CHALLENGER).version == "1"
    assert promote(by_person, candidate, "1", expected="1").version == "1"


def test_a_person_cannot_wave_through_what_failed(default_params: Params, candidate: Path) -> None:
    version = register_candidate(default_params, candidate)
    registry = Registry(candidate, "movie-reviews")
    store = tracking.client(candidate)
    store.set_model_version_tag("movie-reviews", version.version, versions.GATE, '{"passed": false, "checks": []}')
    with pytest.raises(RegistryError, match="no passed gate"):
        registry.approve(version.version)
    with pytest.raises(RegistryError, match="no version '9'"):
        registry.approve("9")

"""Which steps Prefect tries again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from potstill.errors import BusyError, FetchError, GateRefusedError


@pytest.fixture
def api(prefect_server: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

    # A task outside a flow has no page that its log could be on.
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield


@pytest.mark.parametrize(
    ("error", "failures", "tries"),
    [
        (BusyError("another process changes the registry"), 2, 3),
        (BusyError("another process changes the registry"), 9, 3),
        (FetchError("the hub has no such commit"), 9, 1),
        (GateRefusedError("the candidate is refused"), 9, 1),
        (KeyError("a defect"), 9, 1),
    ],
)
def test_only_what_is_busy_is_tried_again(
    api: None, monkeypatch: pytest.MonkeyPatch, error: Exception, failures: int, tries: int
) -> None:
    from flows.engine import prefect_flow

    monkeypatch.setattr(prefect_flow, "RETRY_SECONDS", [0.0, 0.0])
    calls: list[str] = []

    def step() -> str:
        calls.append("try")
        if len(calls) <= failures:
            raise error
        return "done"

    if failures < tries:
        assert prefect_flow.in_task("promote", step) == "done"
    else:
        with pytest.raises(type(error)):
            prefect_flow.in_task("promote", step)
    assert len(calls) == tries

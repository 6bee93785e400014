"""Fixtures of the trials: the toy workspace of the flows' tests, a chance of its own for each try, and a small disk."""

from __future__ import annotations

import random

import pytest

from tests.flows.conftest import offline_toy, prefect_home, prefect_server, template, toy, variables

__all__ = ["offline_toy", "prefect_home", "prefect_server", "template", "toy", "variables"]

MODULES = ("clocks", "flipped_bytes", "full_disks", "kills", "lost_servers", "poisoned", "races")
pytest.register_assert_rewrite(*(f"tests.chaos.{module}" for module in MODULES))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers: the same at each repetition of a try, others for the next one."""
    return random.Random(request.node.nodeid)

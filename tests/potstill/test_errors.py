from __future__ import annotations

import pytest

from potstill.errors import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://me:secret@example.org/a@b", "see https://***@example.org/a@b"),
        ("postgresql://me:s@cret@host:5432/x, s3://secret@bucket/", "postgresql://***@host:5432/x, s3://***@bucket/"),
        ("http://host/x and me@example.org", "http://host/x and me@example.org"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_users_and_passwords_of_urls_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown

"""URLs of webhooks, which may name variables of the environment, since many such URLs are secrets."""

from __future__ import annotations

import re
from string import Template
from typing import Annotated

from pydantic import AfterValidator

_USER_IN_URL = re.compile(r"^https?://[^/?#]*@")


def _checked_url(url: str) -> str:
    """Refuse what can be no web address once the environment has filled it in, and passwords."""
    if not Template(url).is_valid():
        raise ValueError("write a variable of the environment as ${NAME}, and any other $ as $$")
    if not url.startswith(("http://", "https://", "${")):
        raise ValueError("write a URL with http:// or https://, or a variable of the environment that has it: ${NAME}")
    if _USER_IN_URL.match(url):
        raise ValueError("a URL with a user or a password does not belong here; name a variable that has it: ${NAME}")
    return url


WebhookUrl = Annotated[str, AfterValidator(_checked_url)]

"""Section `notify`: who is told what happened."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import Strict
from potstill.config.webhook_url import WebhookUrl

Event = Literal["failure", "refusal", "approval_pending", "promotion", "drift"]
Address = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]


class Email(Strict):
    """The mail server and the people who are told by e-mail."""

    host: str
    """Mail server (SMTP)."""
    port: int = Field(587, ge=1, le=65535)
    """Its port: usually 587 with starttls, 465 with tls, 25 with none."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is encrypted. none: not at all, for a server on this machine."""
    user: str | None = None
    """User of the mail server. The password is in the environment variable POTSTILL_SMTP_PASSWORD. null: the server
    asks for none."""
    sender: Address
    """Address the messages come from."""
    recipients: list[Address] = Field(min_length=1)
    """Addresses the messages go to."""

    @model_validator(mode="after")
    def _encrypt_the_password(self) -> Self:
        if self.user is not None and self.security == "none":
            raise ValueError("user is given, but security is none, so its password would travel in the clear")
        return self


class Notify(Strict):
    """Who is told of failures, refusals, pending approvals, promotions and drift. A message never fails a run."""

    events: list[Event] = ["failure", "refusal", "approval_pending", "promotion", "drift"]
    """What is told: a run that failed, a candidate that a gate refused, one that waits for a person, a new champion,
    and drift."""
    webhooks: list[WebhookUrl] = []
    """URLs that receive each message as JSON (POST). `${NAME}` is a variable of the environment, since many such URLs
    are secrets."""
    email: Email | None = None
    """Mail server and recipients. null: no e-mail."""
    timeout_seconds: float = Field(5.0, gt=0, le=60)
    """Seconds a receiver may take. It is tried twice."""

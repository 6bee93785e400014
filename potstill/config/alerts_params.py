"""Section `alerts`: what about the answers to streams and watched folders somebody is told of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from potstill.config.base import Share, Strict
from potstill.config.webhook_url import WebhookUrl


class ShareRule(Strict):
    """Too large a share of the answers of a window has a label."""

    kind: Literal["share"]
    label: str | int
    """The label, or the type of entities."""
    above: Share
    """Share above which somebody is told."""


class RiseRule(Strict):
    """The share of a label is larger than in the day before the window, and by more than chance explains."""

    kind: Literal["rise"]
    label: str | int
    """The label, or the type of entities."""
    by: Share
    """Difference of the two shares above which somebody is told. It also has to be above three standard deviations."""


class ConfidenceRule(Strict):
    """The mean confidence of the answers of a window is too low."""

    kind: Literal["confidence"]
    below: Share
    """Mean confidence below which somebody is told."""


Rule = Annotated[ShareRule | RiseRule | ConfidenceRule, Field(discriminator="kind")]


class Alerts(Strict):
    """What about the answers to streams and watched folders somebody is told of, in the log and by a webhook."""

    rules: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], Rule] = {}
    """Rules by name. Each tells at most once in a window."""
    window_minutes: int = Field(60, ge=1, le=1440)
    """Minutes of a window of answers, a day at most."""
    min_texts: PositiveInt = 100
    """Fewest texts of a window, and of the day before it, that a rule judges."""
    webhook: WebhookUrl | None = None
    """URL that receives each alert as JSON (POST). `${NAME}` is a variable of the environment, since many such URLs are
    secrets. null: alerts are only in the log."""

"""Clients that openapi-python-client generates from a service's description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def generate_client(document: dict[str, Any], folder: Path) -> Path:
    """Write the package of a client; a warning of the generator is an error."""
    from openapi_python_client import generate
    from openapi_python_client.config import Config, ConfigFile, MetaType

    source = folder.parent / f"{folder.name}.json"
    source.write_text(json.dumps(document), encoding="utf-8")
    settings = ConfigFile(post_hooks=[])
    config = Config.from_sources(
        settings, MetaType.NONE, document_source=source, file_encoding="utf-8", overwrite=False, output_path=folder
    )
    errors = generate(config=config)
    assert not errors, errors
    return folder

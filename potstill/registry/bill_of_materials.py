"""The bill of materials of a version: what the model was made of, as a CycloneDX ML-BOM.

It is a pure function of plain values, without a time or a random number: the same candidate has the same bytes.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from potstill.artifacts import canonical_json
from potstill.evaluation.metrics_reading import with_bounds
from potstill.evaluation.naming import candidate_of
from potstill.kinds.definitions.task_kinds import kind_in
from potstill.registry.model_card import Lineage

if TYPE_CHECKING:
    from cyclonedx.model import HashType
    from cyclonedx.model.component import Component

# Outs of the pipeline that are data, with what they are.
_DATASETS = {"data/raw": "data as it was fetched", "data/prepared": "cleaned, labelled and split data"}
_TEST = "data/prepared/test.parquet"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def render_bom(lineage: Lineage, files: Mapping[str, str], metrics: Mapping[str, Any], lock: str) -> str:
    """Write the bill of materials as CycloneDX 1.6 JSON.

    Args:
        lineage: what the version was made of.
        files: file of the serving folder -> sha256.
        metrics: the content of reports/metrics.json.
        lock: the content of the environment's lock file.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    model = _model(lineage, files)
    datasets = list(_datasets(lineage, metrics))
    teacher = _teacher(lineage)
    packages = list(_packages(lock))
    bom = Bom(
        metadata=BomMetaData(component=model),
        components=[*datasets, teacher, *packages],
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{lineage.candidate} {lineage.bento}"),
    )
    bom.register_dependency(model, [*datasets, teacher, *packages])
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]
    # The library has no model cards yet.
    document["metadata"]["component"]["modelCard"] = _model_card(metrics, [str(item.bom_ref) for item in datasets])
    return canonical_json(document)


def _model(lineage: Lineage, files: Mapping[str, str]) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    facts = {"bento": lineage.bento, "candidate": lineage.candidate, "commit": lineage.commit}
    parts = [
        Component(type=ComponentType.FILE, name=name, bom_ref=f"file:{name}", hashes=[_sha256(value)])
        for name, value in files.items()
    ]
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=lineage.project,
        version=lineage.candidate[:12],
        bom_ref="model",
        hashes=[_sha256(files["model.onnx"])],
        components=parts,
        properties=[Property(name=f"potstill:{name}", value=value) for name, value in facts.items() if value],
    )


def _datasets(lineage: Lineage, metrics: Mapping[str, Any]) -> Iterator[Component]:
    from cyclonedx.model.component import Component, ComponentType

    for path, description in _DATASETS.items():
        if path in lineage.data:
            yield Component(
                type=ComponentType.DATA, name=path, version=lineage.data[path], description=description, bom_ref=path
            )
    if isinstance(metrics.get("test_sha256"), str):
        yield Component(
            type=ComponentType.DATA,
            name=_TEST,
            description="rows that no stage trained on",
            bom_ref=_TEST,
            hashes=[_sha256(metrics["test_sha256"])],
        )


def _teacher(lineage: Lineage) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType

    licence = lineage.teacher.licence
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=lineage.teacher.origin,
        version=lineage.data.get("data/given"),
        description="the teacher",
        bom_ref="teacher",
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
    )


def _packages(lock: str) -> Iterator[Component]:
    """Yield the packages of the environment; one that depends on the Python version is there in each version."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    for name, version in dict.fromkeys(_PIN.findall(lock)):
        purl = PackageURL("pypi", name=name.lower(), version=version)
        yield Component(type=ComponentType.LIBRARY, name=name, version=version, bom_ref=purl.to_string(), purl=purl)


def _model_card(metrics: Mapping[str, Any], datasets: list[str]) -> dict[str, Any]:
    kind = kind_in(metrics)
    model = metrics.get("models", {}).get(candidate_of(metrics) or "", {})
    value, low, high = (model.get(key) for key in with_bounds(kind.scoring.key))
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": kind.name,
            "datasets": [{"ref": name} for name in datasets],
        }
    }
    if value is not None:
        score: dict[str, Any] = {"type": kind.scoring.words, "value": str(value)}
        if low is not None and high is not None:
            score["confidenceInterval"] = {"lowerBound": str(low), "upperBound": str(high)}
        card["quantitativeAnalysis"] = {"performanceMetrics": [score]}
    return card


def _sha256(value: str) -> HashType:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=value)

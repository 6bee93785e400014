from __future__ import annotations

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from potstill.registry.bill_of_materials import render_bom
from potstill.registry.model_card import Lineage, Teacher

FILES = {"model.onnx": "a" * 64, "tokenizer.json": "b" * 64}
METRICS = {
    "task": "single_label", "shipped": "int8", "test_sha256": "c" * 64,
    "models": {"int8": {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95}},
}  # fmt: skip
LOCK = "numpy==2.4.6 ; python_full_version < '3.12'\nnumpy==2.5.5 ; python_full_version >= '3.12'\nPyYAML==6.0.3\n"


def bill(metrics: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "project": "reviews", "candidate": "d" * 64, "bento": "potstill-reviews:1", "commit": "e" * 40,
        "is_clean": True, "lock_sha256": None, "data": {"data/raw": "f1.dir", "data/prepared": "f2.dir",
        "data/given": "f3.dir"}, "teacher": Teacher("owner/name@1", "owner/name", "apache-2.0"), "labels": ["a", "b"],
        "max_length": 128, "champion": None,
    }  # fmt: skip
    text = render_bom(Lineage(**facts | changes), FILES, METRICS if metrics is None else metrics, LOCK)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert text == render_bom(Lineage(**facts | changes), FILES, METRICS if metrics is None else metrics, LOCK)
    content: dict[str, Any] = json.loads(text)
    return content


def test_it_names_model_data_teacher_and_packages_and_validates() -> None:
    content = bill()
    model = content["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert {part["name"] for part in model["components"]} == set(FILES)
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0]["value"] == "0.9"
    components = {item["bom-ref"]: item for item in content["components"]}
    assert components["teacher"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert components["data/prepared"]["version"] == "f2.dir"
    assert components["data/prepared/test.parquet"]["hashes"][0]["content"] == "c" * 64
    packages = sorted(item["purl"] for item in content["components"] if item["type"] == "library")
    assert packages == ["pkg:pypi/numpy@2.4.6", "pkg:pypi/numpy@2.5.5", "pkg:pypi/pyyaml@6.0.3"]
    needs = next(item for item in content["dependencies"] if item["ref"] == "model")["dependsOn"]
    assert set(needs) == components.keys()


@pytest.mark.parametrize("licence", [None, "Apache License", "MIT OR Apache-2.0", 'Lizenz für <alle> & "jeden"'])
def test_any_licence_and_missing_numbers_validate(licence: str | None) -> None:
    teacher = Teacher("an encoder trained from scratch on the project's own texts", None, licence)
    content = bill({"models": {}}, teacher=teacher, data={}, commit=None)
    listed = next(item for item in content["components"] if item["bom-ref"] == "teacher")
    assert ("licenses" in listed) == (licence is not None)
    assert "quantitativeAnalysis" not in content["metadata"]["component"]["modelCard"]

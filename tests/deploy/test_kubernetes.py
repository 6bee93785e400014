"""The Kubernetes manifest against Kubernetes' own schema, and the promises it makes."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from potstill.serving.release import bento_name
from potstill.serving.telemetry import Metrics
from tests.conftest import REPOSITORY

MANIFEST = REPOSITORY / "deploy/kubernetes.yaml"
# Fields of the manifest that older versions do not know: a container's `sleep` before it stops (1.30).
OLDEST = "1.30"


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    found = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    return {document["kind"]: document for document in found}


def test_every_document_fits_the_schema_strictly(documents: dict[str, dict[str, Any]]) -> None:
    for document in documents.values():
        for version in (OLDEST, kubernetes_validate.latest_version()):
            # strict: an unknown field is an error.
            kubernetes_validate.validate(document, version, strict=True)
    wrong = documents["Deployment"] | {"spec": documents["Deployment"]["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_all_parts_are_there_and_find_each_other(documents: dict[str, dict[str, Any]]) -> None:
    assert set(documents) == {
        "ServiceAccount", "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"
    }  # fmt: skip
    pod = documents["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert documents["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert documents["Service"]["spec"]["selector"] == labels
    assert documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert pod["spec"]["serviceAccountName"] == documents["ServiceAccount"]["metadata"]["name"]
    target = documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", documents["Deployment"]["metadata"]["name"])
    assert "replicas" not in documents["Deployment"]["spec"]  # or every apply undoes the autoscaler
    (container,) = pod["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in documents["Service"]["spec"]["ports"]} <= ports
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert [probe["path"] for probe in probes] == ["/readyz", "/readyz", "/livez"]
    assert {probe["port"] for probe in probes} <= ports
    assert container["image"].partition(":")[0].endswith(bento_name("reviews"))


def test_it_runs_with_no_rights_on_a_read_only_file_system(documents: dict[str, dict[str, Any]]) -> None:
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {"/tmp": "tmp"}
    assert [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume] == ["tmp"]
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


def test_a_pod_has_time_to_answer_what_it_has_begun(documents: dict[str, dict[str, Any]]) -> None:
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= sleep + 30
    assert documents["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_it_scales_on_the_waiting_time_that_the_documentation_derives(documents: dict[str, dict[str, Any]]) -> None:
    metrics = documents["HorizontalPodAutoscaler"]["spec"]["metrics"]
    names = [metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"]
    page = (REPOSITORY / "docs/deploy.md").read_text(encoding="utf-8")
    assert re.findall(r"as: (\w+)", page) == names
    series = set(re.findall(r"potstill_\w+_(?:sum|count)\b", page))
    exported = Metrics().exposition().decode()
    assert len(series) == 2
    assert all(f"\n{name}" in exported for name in series)
    assert [metric["resource"]["name"] for metric in metrics if metric["type"] == "Resource"] == ["cpu"]

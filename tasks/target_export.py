"""target_export: writes the finished student for a runtime other than the service's, if its answers stay the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Any, Literal

import pyarrow.parquet as pq

from potstill import __version__
from potstill.artifacts import (
    MANIFEST,
    read_json,
    read_json_if_present,
    verify,
    whole_folder,
    write_manifest,
    write_text,
)
from potstill.data.corpus import prepared_texts
from potstill.errors import ModelError, ParamsError, RegistryError
from potstill.inference.runtime import MODEL, ModelCard, read_card
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.onnx_export import browser_folder, openvino_folder
from potstill.onnx_export.label_check import TEXTS, LabelCheck, Run, check_labels
from potstill.paths import EXPORT, PREPARED
from potstill.registry.versions import candidate_sum

Target = Literal["web", "openvino"]
README = "README.md"
_TEMPLATES = Path(browser_folder.__file__).parent / "templates"


@dataclass(frozen=True)
class _Runtime:
    """What is known of a target.

    Attributes:
        write: writes the folder without README.md and manifest.
        bits: of its weights unless they stay in fp32.
        model: pattern of the model's files.
        facts: further values for the template of README.md.
    """

    write: Callable[..., Run]
    bits: int
    model: str
    facts: Callable[[], Mapping[str, str]]


_RUNTIMES: dict[Target, _Runtime] = {
    "web": _Runtime(
        browser_folder.write_browser_folder,
        8,
        "onnx/*.onnx",
        lambda: {
            "transformers_js": browser_folder.TRANSFORMERS_JS,
            "onnxruntime_web": browser_folder.ONNXRUNTIME_WEB,
        },
    ),
    "openvino": _Runtime(
        openvino_folder.write_openvino_folder,
        16,
        "openvino_model.*",
        lambda: {"openvino": metadata.version("openvino")},
    ),
}


@dataclass(frozen=True)
class Exported:
    """A folder that was written.

    Attributes:
        path: the folder.
        megabytes: size of the model's files.
        bits: of its weights.
        check: the comparison with the fp32 model.
        answers: what that comparison showed, as a clause.
    """

    path: Path
    megabytes: float
    bits: int
    check: LabelCheck
    answers: str


def export_target(
    target: Target, workspace: Path, serving: Path, out: Path, *, project: str, version: str | None, exact: bool
) -> Exported:
    """Write a student for another runtime, whole or not at all.

    Args:
        target: the runtime.
        workspace: holds `data/export` and `data/prepared`.
        serving: the serving folder of the student.
        out: the folder to write; an earlier one is replaced.
        project: name of the project.
        version: number of the registered version; None for the workspace's candidate.
        exact: whether weights stay in fp32.

    Raises:
        ChecksumError: a file is not what its manifest says, or is missing.
        ModelError: the student's answers are spans of a text.
        ParamsError: `out` holds something else.
        ParityError: too few answers are those of the fp32 model.
        RegistryError: the fp32 model of the version is not here.
        ToolError: OpenVINO is not installed.
    """
    verify(serving)
    verify(workspace / PREPARED)
    card = read_card(serving)
    if KINDS[card.kind].marks_spans:
        raise ModelError(
            f"a {card.kind} student cannot be exported: other runtimes would have to cut texts into windows and join "
            "the answers; only students that answer a whole text can"
        )
    _refuse_other_content(out)
    fp32 = _fp32_model(workspace, serving, card)
    texts = prepared_texts(pq.read_table(workspace / PREPARED / "dev.parquet").slice(0, TEXTS))
    runtime = _RUNTIMES[target]
    bits = 32 if exact else runtime.bits
    with whole_folder(out) as folder:
        run = runtime.write(folder, fp32, serving, card, exact=exact)
        check = check_labels(run, fp32, serving, texts, _advice(exact))
        files = sorted(folder.glob(runtime.model))
        exported = Exported(out, sum(file.stat().st_size for file in files) / 1e6, bits, check, _answers(check, card))
        values = _readme_values(exported, card, project, version) | {"file": files[0].name} | runtime.facts()
        write_text(folder / README, Template((_TEMPLATES / f"{target}.md").read_text("utf-8")).substitute(values))
        about = {"target": target, "candidate": candidate_sum(serving), "check": check.as_dict(), **runtime.facts()}
        write_manifest(folder, about)
    return exported


def _refuse_other_content(out: Path) -> None:
    """Refuse to replace what this module has not written."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if "target" not in read_json_if_present(out / MANIFEST).get("about", {}):
        raise ParamsError(f"{out} holds something else than an export of a student; name another folder with --out")


def _fp32_model(workspace: Path, serving: Path, card: ModelCard) -> Path:
    """Find the fp32 model of which a serving folder ships one form."""
    if card.variant == "fp32":
        return serving / MODEL
    verify(workspace / EXPORT)
    shipped = read_json(serving / MANIFEST)["files"][MODEL]
    if read_json(workspace / EXPORT / MANIFEST)["files"].get(f"student.{card.variant}.onnx") != shipped:
        raise RegistryError(
            f"the version ships INT8 alone, and its fp32 model is not in {EXPORT}, which holds another student; "
            "check out the version's commit, `dvc checkout`, and export without --version"
        )
    return workspace / EXPORT / "student.fp32.onnx"


def _advice(exact: bool) -> str:
    return "report it" if exact else "give --fp32, which rounds no weight"


def _answers(check: LabelCheck, card: ModelCard) -> str:
    if KINDS[card.kind].one_output:
        return f"its numbers correlate with those of the fp32 model at {check.agreement:.4f}"
    return f"{100 * check.agreement:.2f}% of the labels are those of the fp32 model"


def _readme_values(exported: Exported, card: ModelCard, project: str, version: str | None) -> dict[str, Any]:
    value = "number" if KINDS[card.kind].one_output else "probability"
    return {
        "project": project,
        "potstill": __version__,
        "origin": "The candidate of a workspace" if version is None else f"Version {version}",
        "megabytes": f"{exported.megabytes:.1f}",
        "bits": exported.bits,
        "max_length": card.max_length,
        "temperature": f"{card.temperature:.4f}",
        "texts": exported.check.texts,
        "agreement": exported.answers,
        "difference": f"The largest difference of a {value} from what ships was {exported.check.difference:.3f}",
    }

"""target_export: writes the finished student for a runtime other than the service's, if its answers stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Literal

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
from potstill.inference.runtime import MODEL, read_card
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.onnx_export.browser_folder import ONNXRUNTIME_WEB, TRANSFORMERS_JS, write_browser_folder
from potstill.onnx_export.label_check import TEXTS, LabelCheck, check_labels
from potstill.onnx_export.openvino_folder import write_openvino_folder
from potstill.onnx_export.target_files import TEMPLATES, Source
from potstill.paths import EXPORT
from potstill.registry.versions import candidate_sum

Target = Literal["web", "openvino"]
_WRITERS = {"web": write_browser_folder, "openvino": write_openvino_folder}
# Bits of a weight, unless they stay in fp32.
_BITS: dict[Target, int] = {"web": 8, "openvino": 16}
_MODEL_FILES = ("*.onnx", "*.xml", "*.bin")


@dataclass(frozen=True)
class Exported:
    """The outcome of an export.

    Attributes:
        megabytes: size of the model.
        bits: of a weight.
        check: the comparison with the fp32 model and with what ships.
    """

    megabytes: float
    bits: int
    check: LabelCheck


def export_target(
    target: Target, source: Source, prepared: Path, out: Path, *, title: str, exact: bool = False
) -> Exported:
    """Write a student for another runtime, whole or not at all.

    Args:
        target: the runtime.
        source: the student.
        prepared: `data/prepared`, with whose dev texts the answers are compared.
        out: the folder to write; an earlier one is replaced.
        title: the name of the student in README.md.
        exact: whether weights stay in fp32.

    Raises:
        ChecksumError: a file is not what its manifest says, or is missing.
        ModelError: the student's answers are spans of a text.
        ParamsError: `out` holds something else.
        ParityError: too few answers are those of the fp32 model.
        ToolError: OpenVINO is not installed.
    """
    kind = KINDS[source.card.kind]
    if kind.marks_spans:
        raise ModelError(
            f"a {kind.name} student cannot be exported, since other runtimes do not cut texts into windows and join "
            "their answers; only one that answers whole texts can"
        )
    _refuse_other_content(out)
    verify(prepared)
    texts = prepared_texts(pq.read_table(prepared / "dev.parquet").slice(0, TEXTS))
    advice = "report it" if exact else "give --fp32, which rounds no weight"
    with whole_folder(out) as folder:
        run = _WRITERS[target](folder, source, exact=exact)
        check = check_labels(run, source, texts, advice)
        size = sum(path.stat().st_size for pattern in _MODEL_FILES for path in folder.rglob(pattern))
        exported = Exported(size / 1e6, 32 if exact else _BITS[target], check)
        versions = _versions(target)
        _write_readme(folder / "README.md", target, source, exported, {"title": title, **versions})
        about = {"target": target, "candidate": candidate_sum(source.serving), "versions": versions}
        write_manifest(folder, about | {"check": asdict(check)})
    return exported


def find_source(workspace: Path, serving: Path) -> Source:
    """Find the fp32 model of a serving folder.

    Args:
        workspace: holds `data/export`.
        serving: the serving folder of the workspace's candidate or of a version.

    Raises:
        ChecksumError: a file is not what its manifest says, or is missing.
        RegistryError: `data/export` belongs to another student.
    """
    verify(serving)
    card = read_card(serving)
    if card.variant == "fp32":
        return Source(serving, serving / MODEL, card)
    verify(workspace / EXPORT)
    exported = read_json(workspace / EXPORT / MANIFEST)["files"]
    if exported.get(f"student.{card.variant}.onnx") != read_json(serving / MANIFEST)["files"][MODEL]:
        raise RegistryError(
            f"only the INT8 model of this version is registered, and {EXPORT} has the fp32 model of another student; "
            "check out the version's commit, run `dvc checkout`, and export without --version"
        )
    return Source(serving, workspace / EXPORT / "student.fp32.onnx", card)


def _refuse_other_content(out: Path) -> None:
    """Refuse to replace what this module has not written."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if "target" not in read_json_if_present(out / MANIFEST).get("about", {}):
        raise ParamsError(f"{out} holds something else than an exported student; name another folder with --out")


def _versions(target: Target) -> dict[str, str]:
    """Name the releases that a folder is made for."""
    if target == "web":
        return {"transformers_js": TRANSFORMERS_JS, "onnxruntime_web": ONNXRUNTIME_WEB}
    return {"openvino": metadata.version("openvino")}


def _write_readme(path: Path, target: Target, source: Source, exported: Exported, facts: Mapping[str, str]) -> None:
    text = Template((TEMPLATES / f"{target}.md").read_text(encoding="utf-8")).substitute(
        facts,
        potstill=__version__,
        megabytes=f"{exported.megabytes:.1f}",
        bits=exported.bits,
        max_length=source.card.max_length,
        temperature=f"{source.card.temperature:.4f}",
        agreement=exported.check.agreement_sentence,
        difference=exported.check.difference_sentence,
    )
    write_text(path, text)

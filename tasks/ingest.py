"""Stage ingest: the sources that params name, to `data/raw` and `data/base` as they came."""

from __future__ import annotations

from potstill.artifacts import MANIFEST, read_json, sha256_file
from potstill.config import Ingest
from potstill.data.sources import MODELS, ingest_all
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Fetch, check, and write both outs."""
    raw, base = stage.outs["raw"], stage.outs["base"]
    origins = ingest_all(stage.params(Ingest), raw, base)
    files = [len(read_json(folder / MANIFEST)["files"]) for folder in (raw, base)]
    names = ", ".join(name.removeprefix("data.") for name in origins if name not in MODELS)
    models = " and the ".join(name for name in MODELS if name in origins)
    size = sum(path.stat().st_size for folder in (raw, base) for path in folder.rglob("*") if path.is_file())
    return Result(
        summary=f"{files[0]} files of {names} and {files[1]} of the {models}, {size / 1e6:.1f} MB, sums checked",
        metrics={"files": float(sum(files)), "megabytes": size / 1e6},
        datasets={"raw": {"digest": sha256_file(raw / MANIFEST)[:32], "source": raw.as_posix()}},
    )


if __name__ == "__main__":
    main(run)

"""ingest: fetches the data and models that params name to `data/raw` and `data/given`, unchanged."""

from __future__ import annotations

from potstill.artifacts import MANIFEST, read_json, sha256_file, total_bytes
from potstill.config.ingest_params import Ingest
from potstill.data.fetching.ingestion import TEACHERS, ingest_all, is_model_source
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Fetch and check all sources, and write both outs."""
    raw_dir = stage.outs["raw"]
    given_dir = stage.outs["given"]
    origins = ingest_all(stage.params(Ingest), raw_dir, given_dir)
    files = [len(read_json(folder / MANIFEST)["files"]) for folder in (raw_dir, given_dir)]
    names = ", ".join(name.removeprefix("data.") for name in origins if not is_model_source(name))
    models = " and the ".join(name for name in ("teacher", "student") if name in origins)
    more_teachers = sum(name.startswith(TEACHERS) for name in origins)
    models += f" and of {more_teachers} more teachers" if more_teachers else ""
    size = total_bytes(raw_dir) + total_bytes(given_dir)
    return Result(
        summary=f"{files[0]} files of {names} and {files[1]} of the {models}, {size / 1e6:.1f} MB, sums checked",
        metrics={"files": float(sum(files)), "megabytes": size / 1e6},
        datasets={"raw": {"digest": sha256_file(raw_dir / MANIFEST)[:32], "source": raw_dir.as_posix()}},
    )


if __name__ == "__main__":
    main(run)

"""A peer for benchmarks/predicting.py: a model in `transformers.pipeline` under Ray Data, in a Python of its own.

`python predicting_ray.py MODEL INPUT.csv OUTPUT` prints the seconds, the cores' seconds and the versions, all
without the start of Ray. It follows Ray's documentation of batch inference: an actor a core, each with the model.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.metadata import version
from typing import Any

import pandas
import psutil
import ray.data


class Classifying:
    """An actor that holds the model."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import pipeline

        torch.set_num_threads(1)
        self._classify: Any = pipeline("text-classification", model=model, device="cpu")

    def __call__(self, rows: pandas.DataFrame) -> pandas.DataFrame:
        """Add label and score to rows."""
        answers = self._classify(rows["text"].tolist(), batch_size=32, truncation=True, max_length=128)
        return rows.assign(label=[answer["label"] for answer in answers], score=[answer["score"] for answer in answers])


def core_seconds() -> float:
    """The time that this process and all below it have had of the cores, ended ones included."""
    process = psutil.Process()
    return sum(sum(item.cpu_times()[:4]) for item in (process, *process.children(recursive=True)))


def main() -> None:
    """Answer a CSV."""
    model, source, output = sys.argv[1:]
    cores = os.cpu_count() or 1
    ray.init(num_cpus=cores + 1, log_to_driver=False)  # one for reading
    start = time.perf_counter()
    used = core_seconds()
    actors = ray.data.ActorPoolStrategy(size=cores)
    rows = ray.data.read_csv(source).repartition(cores)
    rows = rows.map_batches(
        Classifying, fn_constructor_args=(model,), batch_format="pandas", batch_size=1024, compute=actors, num_cpus=1
    )
    rows.write_csv(output)
    seconds = time.perf_counter() - start
    print(
        f"{seconds}\t{core_seconds() - used}\t"
        + ", ".join(f"{name} {version(name)}" for name in ("ray", "transformers", "torch"))
    )


if __name__ == "__main__":
    main()

"""Answers the rows of Parquet files under Ray Data with a registered version, which carries its own code.

Neither Potstill nor anything of it is sent: `python ray_answers.py MODEL INPUT OUTPUT`. See README.md.
"""

from __future__ import annotations

import argparse

import mlflow
import pandas
import ray.data

INPUTS = ("text", "text_pair")


class Answering:
    """An actor that holds the model and answers batches on one core."""

    def __init__(self, store: str, model: str, texts: list[str]) -> None:
        mlflow.set_tracking_uri(store)
        self._model = mlflow.pyfunc.load_model(model, model_config={"threads": 1})
        self._version = model
        self._texts = texts

    def __call__(self, rows: pandas.DataFrame) -> pandas.DataFrame:
        """Add the columns of the answers and `model_version` to rows."""
        texts = rows[self._texts].set_axis(INPUTS[: len(self._texts)], axis="columns")
        answers: pandas.DataFrame = self._model.predict(texts)
        return pandas.concat([rows, answers.add_prefix("model_")], axis="columns").assign(model_version=self._version)


def score(model: str, source: str, output: str, texts: list[str], actors: int) -> None:
    """Write the rows with the columns of the answers, whose names begin with `model_`.

    Args:
        model: URI of the version.
        source: Parquet files.
        output: a folder of Parquet files.
        texts: the column of the text, or the two of a pair.
        actors: number of actors, each on one core.
    """
    answered = ray.data.read_parquet(source).map_batches(
        Answering,
        fn_constructor_args=(mlflow.get_tracking_uri(), model, texts),
        batch_format="pandas",
        batch_size=1024,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=1,
    )
    answered.write_parquet(output)


def main() -> None:
    """Answer the rows of Parquet files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="models:/<project>/<version>; an alias could move meanwhile")
    parser.add_argument("source", help="Parquet files to read")
    parser.add_argument("output", help="folder of Parquet files to write")
    parser.add_argument("--text", default="text", help="column of the text, or `first,second` of a pair")
    parser.add_argument("--actors", type=int, default=1, help="each answers on one core")
    arguments = parser.parse_args()
    score(arguments.model, arguments.source, arguments.output, arguments.text.split(","), arguments.actors)


if __name__ == "__main__":
    main()

"""Answers the rows of Parquet files under Spark with a registered version, which carries its own code.

Neither Potstill nor anything of it is sent: `spark-submit spark_answers.py MODEL INPUT OUTPUT`. See README.md.
"""

from __future__ import annotations

import argparse

import mlflow
from pyspark.sql import SparkSession
from pyspark.sql.functions import lit


def score(spark: SparkSession, model: str, source: str, output: str, texts: list[str]) -> None:
    """Write the rows with the columns `answer` (a struct, as the model answers) and `model_version`.

    Args:
        spark: the session.
        model: URI of the version.
        source: Parquet files.
        output: a folder of Parquet files.
        texts: the column of the text, or the two of a pair.
    """
    # Each task answers on one core.
    answer = mlflow.pyfunc.spark_udf(spark, model, env_manager="local", model_config={"threads": 1})
    rows = spark.read.parquet(source)
    answered = rows.withColumn("answer", answer(*texts)).withColumn("model_version", lit(model))
    answered.write.parquet(output)


def main() -> None:
    """Answer the rows of Parquet files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="models:/<project>/<version>; an alias could move meanwhile")
    parser.add_argument("source", help="Parquet files to read")
    parser.add_argument("output", help="folder of Parquet files to write")
    parser.add_argument("--text", default="text", help="column of the text, or `first,second` of a pair")
    arguments = parser.parse_args()
    spark = SparkSession.builder.appName("potstill").getOrCreate()
    score(spark, arguments.model, arguments.source, arguments.output, arguments.text.split(","))


if __name__ == "__main__":
    main()

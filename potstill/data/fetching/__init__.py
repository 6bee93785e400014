"""How data and models come in: packages, files, hub repositories, archives.

Every source is named by params, checked by sha256 where there is one, and refused where it could run code (`safety`).
A new kind of source is a class in `potstill.config.ingest_params` and a branch in `ingestion`.
"""

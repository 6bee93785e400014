"""Fetches data and models: packages, files, hub repositories, archives.

Params name every source. Its sha256 is checked if params give one, and files that could run code are refused
(`safety`).
A new kind of source is a class in `potstill.config.ingest_params` and a branch in `ingestion`.
"""

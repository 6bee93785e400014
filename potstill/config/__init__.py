"""The typed form of `params.yaml`: a module for each section or group of sections.

Strict: an unknown key, a wrong type or an impossible combination is refused before any work, with the key, the value
and what is allowed. Most sections are named after the stage that receives them; every stage receives `project`.

`potstill params` and docs/params.md say of a key what the docstring below its field says. `key_reference.py` reads
docstrings, types, limits and defaults, and `scripts/params_page.py` writes them into the page.
"""

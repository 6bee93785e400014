"""Validates prepared data before anything is trained on it.

`expectations` runs suites of Great Expectations, `profiles` measures the change since the last accepted data, and
`data_docs` makes the pages readable offline.
"""

"""What prepared data must meet before anything is trained on it.

Great Expectations suites and their verdict (`expectations`), how data has changed since it was accepted (`profiles`),
and the offline pages (`data_docs`).
"""

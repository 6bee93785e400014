"""Behavioural tests of a model (CheckList: Ribeiro et al. 2020, "Beyond Accuracy").

An invariance test (INV) changes a text and expects the same answer. A directional test (DIR) changes it and expects a
probability to rise or to fall. A minimum functionality test (MFT) expects a given answer to a text of the user's.

`typography`, `wording` and `chinese` hold perturbations: pure functions of a text and a random generator, which return
the changed text, or None where they do not apply (`edits`). `catalogue` names them and makes test cases of test rows,
`templates` makes cases of a user's file, `cases` holds both. `predicting` asks models, `judging` counts failures.
Nothing here trains, and nothing reads or writes files but `templates`, which reads one.
"""

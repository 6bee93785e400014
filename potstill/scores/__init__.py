"""Scores as pure functions of labels and answers, with their intervals.

One module for each kind of answer (`metrics`, `several`, `numbers`, `entities`, `answers`); `scoring` names the one
score by which a task selects weights and judges; `statistics` says how sure a number is, with `resampling` and
`significance`; `calibration` scales temperature; `selective` finds a threshold of confidence. NumPy, and SciPy for
p values and exact bounds. Used by training, evaluation and the gates alike.
"""

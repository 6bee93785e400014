"""Scores as pure functions of labels and answers, with their intervals.

One module for each kind of answer (`metrics`, `several`, `numbers`, `entities`, `answers`); `scoring` is the
type of a task's main score; `statistics` computes intervals, with `resampling` and `significance`; `probabilities` and
`calibration` hold softmax and its temperature; `selective` finds a threshold of confidence. The service needs NumPy
alone; p values and exact bounds import SciPy where they need it.

Not here: which of them a task uses (`potstill.kinds`).
"""

"""Scores as pure functions of labels and answers, with their intervals.

One module for each kind of answer (`metrics`, `several`, `numbers`, `entities`, `answers`); `scoring` is the form of
the one score by which a task selects weights and judges; `statistics` says how sure a number is; `probabilities` and
`calibration` are about softmax and its temperature. NumPy alone, since the service needs it too.

Not here: which of them a task uses (`potstill.kinds`).
"""

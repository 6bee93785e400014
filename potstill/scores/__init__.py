"""Scores as pure functions of labels and answers, with their intervals.

One module for each kind of answer (`metrics`, `several`, `numbers`, `entities`, `answers`); `scoring` is the
type of a task's main score; `statistics` computes intervals; `probabilities` and `calibration` hold softmax and its
temperature. Only NumPy is needed, since the service imports these modules too.

Not here: which of them a task uses (`potstill.kinds`).
"""

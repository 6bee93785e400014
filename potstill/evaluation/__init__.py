"""Evidence about a candidate: comparison with teacher and controls, gates, drift, feedback.

`summary` computes the numbers of reports/metrics.json, `gates` the verdict. `slices` compares models on parts of the
test split, `behaviour` changes texts and counts wrong answers, `abstention` finds a threshold below which not to
answer. `teacher_gain` says whether the teacher helps, `teacher_check` whether it fits the data. `drift` and `feedback`
judge a service. `metrics_reading` reads metrics.json where it may be anything, and `pages` shows all of it. To add a
gate, write a limit in `potstill.config.promotion_params.Gate` and a check in `gates`, or in `evidence_gates` if it
judges an interval of slices, tests or the champion.
"""

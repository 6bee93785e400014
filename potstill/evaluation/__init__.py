"""Evidence about a candidate: comparison with teacher and controls, gates, drift, feedback.

`summary` makes the numbers of reports/metrics.json, `gates` the verdict, `teacher_gain` says whether the teacher helps,
`drift` and `feedback` judge a service. `pages` shows it. To add a gate: a limit in
`potstill.config.promotion_params.Gate` and a check in `gates`.
"""

"""Where a teacher's outputs come from.

`outputs` is the value that a loss receives; `providers` the sources of it: a live model, or the store. The store is
`signal_store` over `shards` and `signal_arrays`, with `fidelity` for what rounding costs. `ensembles` and
`mean_answers` make several teachers one; `token_mapping`, `answer_mapping` and `position_mapping` carry answers to a
student that splits texts otherwise. `given_teachers` loads the teachers that a caller from Python gives.
"""

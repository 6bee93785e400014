"""Providers of a teacher's outputs.

`outputs` defines the value that a loss receives, and `providers` its sources: a live model or the store. The store is
`signal_store`, built from `shards` and `signal_arrays`; `fidelity` measures its rounding errors. `ensembles` and
`mean_answers` combine several teachers. `token_mapping`, `answer_mapping` and `position_mapping` map answers to a
student whose tokenizer differs from the teacher's. `predict` computes logits over a dataset.
"""

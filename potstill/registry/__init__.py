"""The model registry: versions, the decision who is champion, and its history. Imports no torch.

`promotion` decides under the registry's own lock (`lease`), writes each step into a hash-chained `ledger` first, and
`history` adds it up. `stored` proves a version's bytes; `store_calls` bounds every call of MLflow's store; `tracking`
logs runs; `pyfunc` is the model as MLflow loads it.
"""

"""The model registry: versions, the champion and its history, on MLflow. Imports no torch.

`versions` reads MLflow's versions and aliases. `promotion` decides under the registry's lock (`lease`); `steps` writes
each step into the hash-chained `ledger` before it is taken, and `history` replays the ledger. `version_artifacts`
verifies the bytes of a version. `tracking` logs runs, and `store_calls` bounds every call of MLflow's store. `pyfunc`
is the model as MLflow loads it.
"""

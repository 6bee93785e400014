"""The model registry: versions, the champion and its history, on MLflow. Imports no torch.

`versions` reads MLflow's versions and aliases. `promotion` decides under the registry's lock (`lease`); `steps` writes
each step into the hash-chained `ledger` before it is taken, and `history` replays the ledger. `version_artifacts` packs
and verifies the bytes of a version, and `model_card` writes what MLflow's page shows of it. `signatures` signs and
verifies, and `bill_of_materials` says what a version consists of. `version_comparison` compares two versions,
`lineage_trace` verifies what one was made of, and `store_reader` reads without loading MLflow. `tracking` logs runs,
`store_calls` bounds every call of MLflow's store, `artifact_locations` knows where a moved store's artifacts are, and
`scratch_folders` are temporary ones that no kill leaves for good.
`registry_backup` writes and restores the whole, `agreement` finds what its parts disagree about, and `retention` says
what is kept. `pyfunc` is the model as MLflow loads it.
"""

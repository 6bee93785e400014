"""What: one module for each stage of dvc.yaml, and the stage contract around them.

`python -m tasks.<stage>` runs a stage. `stage` is the contract: params, verified deps, whole outs, one MLflow run.
`identity` says which code a stage depends on. The steps after DVC (gate, package, smoke, register, promote) are here
too. A stage calls the library in `potstill/` and holds no algorithm of its own.
"""

"""The stages of dvc.yaml, one module each, and the stage contract.

`python -m tasks.<stage>` runs a stage. `stage` is the contract: params, verified deps, complete outs, one MLflow run.
`identity` computes which code a stage depends on. The steps after DVC (gate, package, smoke, register, promote) are
here too. A stage calls the library in `potstill/` and holds no algorithm of its own.
"""

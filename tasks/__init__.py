"""The stages of dvc.yaml, one module each, and the stage contract.

`python -m tasks.<stage>` runs a stage. `stage` is the contract: params, verified deps, complete outs, one MLflow run.
`identity` computes which code a stage depends on. The steps after DVC (gate, package, smoke, register, promote) are
here too. A stage calls the library in `potstill/` and holds no algorithm of its own.
"""

import gc

# torch, transformers and MLflow make 400,000 objects that stay. With one look through all of them for a hundred through
# the young ones, not for ten, the imports of a stage take 9% less time.
gc.set_threshold(*gc.get_threshold()[:2], 100)

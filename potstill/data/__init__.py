"""From files to token ids: reading, cleaning, splitting, checking, tokenizing.

The rooms follow the data: `fetching` brings files in, `formats` reads them as tables, `proposals` looks at unknown
data for `potstill init`, `splits` says which row is train, dev or test, `validation` holds the expectations, `tokens`
the token ids and batches. The modules here turn tables into rows (`reading`, `rows`, `label_cells`, `targets`) and
rows into clean splits (`cleaning`, `near`, `augmentation`, `preparation`).

Not here: anything that runs a model.
"""

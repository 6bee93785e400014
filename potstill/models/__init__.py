"""Models in memory: loading, saving, several as one; `students` makes small ones.

Here: model folders in and out (`loading`), several students as one module (`cohort`), words replaced by a masked
language model (`word_replacement`).

Not here: what a folder holds before it is loaded (`potstill.pretrained`), and how models learn (`potstill.training`).
"""

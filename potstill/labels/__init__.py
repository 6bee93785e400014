"""The names of labels, and tags of words: what data, teachers, the service and feedback compare.

Here: the normal form of a name and the order of classes (`names`), BIO tags and the entities that they spell (`tags`).
Pure Python, since the service needs it.

Not here: what a saved model calls its outputs (`potstill.pretrained.output_names`), or reading label columns
(`potstill.data.label_cells`).
"""

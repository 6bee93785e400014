"""Label names and word tags, as data, teachers, the service and feedback compare them.

`names` has the normal form of a name and the order of classes, `tags` has BIO tags and their entities. Pure Python,
since the service needs it.

Not here: what a saved model calls its outputs (`potstill.pretrained.output_names`), or reading label columns
(`potstill.data.label_cells`).
"""

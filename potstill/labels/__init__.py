"""Label names, word tags and spans of texts, as data, teachers, the service and feedback compare them.

`names` has the normal form of a name and the order of classes, `tags` has BIO tags and their entities. `offsets` joins
the units of a text and tokens by character, and `windows` divides long texts. Pure Python and NumPy, since the service
needs it.

Not here: what a saved model calls its outputs (`potstill.pretrained.output_names`), or reading label columns
(`potstill.data.label_cells`).
"""

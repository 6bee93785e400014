"""Files as tables: one module for each family of formats.

`tables` picks the reader by suffix and look; `tabular` is the table that all readers give. Text is read strictly:
what is not UTF-8 or has rows of uneven length is refused with its place. A new format is a reader that gives a
`Table`, and a line in `tables.SUFFIXES`.
"""

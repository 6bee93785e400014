"""Files as tables: one module for each family of formats.

`tables` picks the reader by suffix and content. `tabular` is the table that all readers return. Text is read strictly:
a file that is not UTF-8 or has rows of uneven length is refused, with the line. A new format is a reader that returns a
`Table`, and a line in `tables.SUFFIXES`.
"""

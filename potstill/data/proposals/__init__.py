"""Proposes params for unknown data, for `potstill init`.

`table_summaries` summarizes each column, `column_choice` chooses the columns of text and label, and `proposal` chooses
the task, with a reason. `survey` adds splits and limits. If two readings are likely, an error asks the user.
"""

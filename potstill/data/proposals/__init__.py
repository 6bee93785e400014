"""What `potstill init` makes of data that it has never seen.

`look` says what is in each column, `choosing` which columns are text and label, `proposal` which task it is and why,
`survey` puts both together with splits and limits. Where two readings are likely, a sentence asks.
"""

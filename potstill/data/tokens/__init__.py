"""Token ids: exact, without padding, memory-mapped, in batches under a token budget.

`tokenization` writes them and `batches` reads them. `windows` and `marking` divide long texts and convert answers to
tokens and back. `offsets` aligns the units of a text with tokens by their characters. `coverage` measures truncated
texts and unknown tokens.
"""

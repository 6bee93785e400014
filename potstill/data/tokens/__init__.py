"""Token ids: exact, without padding, memory-mapped, in batches under a token budget.

`tokenization` writes them, `token_folder` opens what it wrote, `batches` reads the rows. `marking` divides long texts
and carries answers to tokens, `coverage` measures what is cut and unknown.

Not here: windows and character offsets, which the service needs too (`potstill.labels`).
"""

"""Token ids: exact, without padding, memory-mapped, in batches under a token budget.

`tokenization` writes them, `token_folder` opens what it wrote, `batches` reads the rows. `windows` and `marking` divide
long texts and carry answers to tokens and back, `offsets` joins units of a text and tokens by character, `coverage`
measures what is cut and unknown.
"""

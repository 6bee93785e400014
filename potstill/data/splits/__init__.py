"""Which split a row belongs to.

As the data says by a column or by the names of files (`split_names`), else drawn by a seeded hash of its text
(`splitting`), so that rows added later move no old one; classes with few rows get seeds of their own (`stratifying`).
"""

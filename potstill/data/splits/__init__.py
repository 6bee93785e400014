"""Assigns rows to train, dev, test and transfer.

A column of the data or the names of its files may give the splits (`split_names`). Others are drawn by a seeded hash of
the text (`splitting`), so that new rows move no old one. Rare classes get seeds of their own (`stratifying`).
"""

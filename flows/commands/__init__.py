"""The commands of `potstill`, a module for each, named by what it does.

To add one: a module here, and its options in `flows.cli`.
"""

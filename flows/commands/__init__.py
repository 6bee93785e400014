"""The commands of `potstill`: a module for each, named after what it does.

To add a command, write a module here and declare its options in `flows.cli`.
"""

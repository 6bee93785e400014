"""When: the command line and the Prefect flows. Thin: no machine learning, no file formats.

`cli` lists the commands; each is a module of `commands`. `engine` runs the stages.
"""

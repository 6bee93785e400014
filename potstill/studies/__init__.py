"""Search: an Optuna study over students, as library functions.

`space` says what is chosen from, `study` runs and resumes it, `pareto` finds what nothing beats, `outcome` and
`search_page` show it. The stage's side is `tasks.search`. `layer_probe` compares choices of layers in short trainings.
"""

"""Search: an Optuna study over students, as library functions.

`space` defines the search space, `study` runs and resumes the study, `pareto` finds the front of score against cost,
`outcome` and `search_page` show it. `tasks.search` runs a search in a workspace. `layer_probe` compares
choices of layers in short trainings.
"""

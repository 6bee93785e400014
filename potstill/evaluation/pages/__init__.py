"""Pages for people: the report, the drift page, the table at the end of a run.

The pages are self-contained HTML without scripts or external fonts (`report`, `report_page`, `evidence`,
`drift_page`), with figures as SVG text (`plots`, `figures`, `task_figures`). The table is for the terminal (`table`).
"""

"""Pages for people: the report, the drift page, the table at the end of a run.

The pages are self-contained HTML without external scripts, fonts or images. `report` and `report_page` make the report:
of intervals (`interval_tables`), test rows (`differences`, `records`), and figures as SVG text (`plots`, `figures`,
`task_figures`). `decision_page` fills in what is known later. `drift_page` is a page of its own. The table is for the
terminal (`table`).
"""

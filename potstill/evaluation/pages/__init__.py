"""What a person looks at: the report, the drift page, the table at the end of a run.

Self-contained HTML without scripts or fonts from elsewhere (`report`, `report_page`, `drift_page`), figures as SVG text
(`plots`, `figures`), and the table in the terminal (`table`).
"""

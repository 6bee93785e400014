"""What each kind of task is, without torch: head, form of labels, score, answers and table columns.

`kind` is the interface. Each further module is one task, and `task_kinds` is their registry. The modules import NumPy
alone at the top, and nothing from the rooms that read data or run models, since the service imports them.
"""

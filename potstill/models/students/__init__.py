"""How a student is built before it learns.

A student starts from layers of its teacher (`student`), a checkpoint of another model (`checkpoint`), a config with
random weights, or static embeddings (`static`); `kinds` picks the one that `distill.student` names. It can have a
smaller vocabulary (`vocabulary`), a factorized embedding table (`factorized`) or narrower layers (`narrowing`).

To add a kind of student, write a class in `potstill.config.student_params` and a branch in `kinds`.
"""

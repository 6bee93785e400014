"""Models in memory: load and save them, combine several into one module, build small ones (`students`).

Here: model folders (`loading`), several students as one module (`cohort`), augmentation with a masked language model
(`word_replacement`), and mixup (`mixup`).

Not here: inspecting a folder before it is loaded (`potstill.pretrained`), and training (`potstill.training`).
"""

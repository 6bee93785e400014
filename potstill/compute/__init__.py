"""Where computation happens: device, number format, processes, memory.

Here: choosing a device and a precision by measurement (`precision`), what this processor does with products of 8-bit
numbers (`processor`), `torch.compile` where it pays (`compiling`), several processes on one run (`distributed`), child
processes and locks (`processes`, `standby`).

Not here: what is computed. Knows nothing of texts, models or stages.
"""

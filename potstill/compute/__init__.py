"""Where computation runs: device, precision, processes and locks.

`precision` chooses a device and a number format by measurement. `processor` says whether 8-bit products saturate on
this CPU. `compiling` applies `torch.compile` if it saves time. `distributed` spreads a run over several processes.
`processes` starts child processes and holds locks.

What is computed does not belong here: these modules know nothing of texts, models or stages.
"""

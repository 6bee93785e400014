"""Section `compute`: the processes and machines that share a stage, and their launcher, `torchrun`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import Strict


class Compute(Strict):
    """How many processes share each training step and the files of signals, and where they meet."""

    processes: PositiveInt = 1
    """Processes on each machine that share each training step and the files of signals. `torchrun` starts them, each on
    its own GPU if there are GPUs."""
    nodes: PositiveInt = 1
    """Machines that share a stage. All see the workspace; all but that which starts runs do `potstill join`."""
    rendezvous: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$")] | None = None
    """Address and free port of the machine that starts runs, where the others meet it: 10.0.0.1:29400. null: one
    machine."""
    restarts: NonNegativeInt = 3
    """How often a stage goes on from its checkpoint after a process or a node was lost."""
    wait_minutes: PositiveFloat = 10
    """Minutes that a stage waits for nodes that are missing."""

    @model_validator(mode="after")
    def _nodes_meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(
                f"nodes is {self.nodes}, but rendezvous is null; set it to an address of the machine that starts runs, "
                "which the others reach, and a free port: 10.0.0.1:29400"
            )
        return self

"""The processes that share a training step: one, or as many as ``accelerate launch`` or ``torchrun`` started."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor


class Workers:
    """One process on one device.

    Attributes:
        rank: Number of this process.
        count: How many there are.
        device: Where its share of a batch goes.
    """

    rank = 0
    count = 1

    def __init__(self, bfloat16: bool) -> None:
        self.bfloat16 = bfloat16
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @staticmethod
    def find(bfloat16: bool) -> Workers:
        """What the environment says: several processes have a WORLD_SIZE."""
        return _Accelerated(bfloat16) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Workers(bfloat16)

    def prepare(self, network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> tuple[torch.nn.Module, Any]:
        """Network and optimiser as a step uses them."""
        return InPrecision(network, self.device, self.bfloat16), optimiser

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch that all processes hold alike."""
        if len(batch) % self.count:
            raise ValueError(f"training: a batch of {len(batch)} does not divide among {self.count} processes")
        return batch[self.rank :: self.count].to(self.device)

    def backward(self, loss: Tensor) -> None:
        """Gradients, averaged over processes."""
        loss.backward()

    def mean(self, loss: Tensor) -> float:
        """The loss averaged over processes."""
        return loss.item()

    def wait(self) -> None:
        """Until all are here."""


class _Accelerated(Workers):
    """Several processes through Hugging Face accelerate, one GPU each, or on the CPU where there is none."""

    def __init__(self, bfloat16: bool) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise ImportError("training in several processes takes accelerate: pip install 'posterior[train]'") from error
        cpu = not torch.cuda.is_available()
        self.accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if bfloat16 else "no")
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device

    def prepare(self, network: torch.nn.Module, optimiser: torch.optim.Optimizer) -> tuple[torch.nn.Module, Any]:
        # The optimiser stays ours: accelerate's wrapper adds nothing without gradient scaling.
        return self.accelerator.prepare_model(network), optimiser

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def mean(self, loss: Tensor) -> float:
        return torch.as_tensor(self.accelerator.reduce(loss.detach(), "mean")).item()

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


class InPrecision(torch.nn.Module):
    """The network alone under autocast: what surrounds it, the reference's linear algebra, keeps its precision."""

    def __init__(self, network: torch.nn.Module, device: torch.device, bfloat16: bool) -> None:
        super().__init__()
        self.network = network
        self.device, self.reduced = device, bfloat16

    def forward(self, inputs: Tensor, time: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced):
            out = self.network(inputs, time)
        return (out if isinstance(out, Tensor) else out.sample).float()

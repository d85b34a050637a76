"""Muon: momentum whose matrices are made orthogonal before each step (Jordan et al. 2024), beside AdamW for the rest.

A network that is trained for only some thousand steps gets further with it than with AdamW alone.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of an (M, N) matrix towards 1 by Newton and Schulz's iteration, in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and orthogonal steps, for matrices and for convolutions seen as matrices.

    Steps are scaled to AdamW's usual size, so that one learning rate serves both (Liu et al. 2025).
    """

    def __init__(self, params: Iterable, lr: float, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients that are there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1.0 - group["momentum"])
        direction = gradient.lerp(state["momentum"], group["momentum"])
        matrix = orthogonalized(direction.flatten(1))
        scale = 0.2 * max(matrix.shape) ** 0.5
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(matrix.view(parameter.shape), alpha=-group["lr"] * scale)


class MixedOptimizer:
    """Muon for `matrices`; AdamW for `others`, lists of parameters by their learning rate relative to the matrices'."""

    def __init__(self, matrices: Sequence[Tensor], others: Mapping[float, Sequence[Tensor]], rate: float) -> None:
        self.rate = rate
        self.muon = Muon(matrices, lr=rate)
        groups = [{"params": parameters, "factor": factor} for factor, parameters in others.items()]
        self.adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def step(self, factor: float) -> None:
        """One step at `factor` of the peak learning rate; clears the gradients."""
        for group in (*self.muon.param_groups, *self.adam.param_groups):
            group["lr"] = self.rate * factor * group.get("factor", 1.0)
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self) -> dict:
        """Of both optimizers."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """What `state_dict` returned."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])

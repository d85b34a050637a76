"""Muon optimizer (Jordan et al. 2024) for matrices, with AdamW for the other parameters.

It converges faster than AdamW alone in trainings of only some thousand steps.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of (..., M, N) matrices towards 1 by Newton-Schulz iteration."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and orthogonalized steps, for matrices and flattened convolutions.

    Steps are scaled to AdamW's typical size, so that both share a learning rate (Liu et al. 2025).
    """

    def __init__(self, params: Iterable, lr: Tensor, momentum: float = 0.95, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step, with all matrices of one shape at once; parameters without gradient stay."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1.0 - group["momentum"])
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"])
        matrices = orthogonalized(torch.stack([direction.flatten(1) for direction in directions]))
        scale = 0.2 * max(matrices.shape[1:]) ** 0.5
        steps = (-group["lr"] * scale * matrices).view(-1, *parameters[0].shape)
        torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(steps))


class MixedOptimizer:
    """Muon for matrices and AdamW for the other parameters.

    Learning rates are tensors on the parameters' device, so that a step can be recorded as a CUDA
    graph.

    Args:
        matrices (`Sequence[Tensor]`): parameters of two or more dimensions, for Muon.
        others (`Mapping[float, Sequence[Tensor]]`): parameters for AdamW, by learning rate relative
            to that of the matrices.
        rate (`float`): peak learning rate.
    """

    def __init__(self, matrices: Sequence[Tensor], others: Mapping[float, Sequence[Tensor]], rate: float) -> None:
        self.rate = rate
        device = matrices[0].device
        self.muon = Muon(matrices, lr=torch.tensor(rate, device=device))
        groups = [
            {"params": parameters, "factor": factor, "lr": torch.tensor(factor * rate, device=device)}
            for factor, parameters in others.items()
        ]
        self.adam = torch.optim.AdamW(
            groups, betas=(0.9, 0.99), weight_decay=0.01, fused=True, capturable=device.type == "cuda"
        )

    def set_rate(self, share: float) -> None:
        """Set the learning rates to a share of their peaks."""
        for group in (*self.muon.param_groups, *self.adam.param_groups):
            group["lr"].fill_(self.rate * share * group.get("factor", 1.0))

    def step(self) -> None:
        """Take a step of both optimizers, then clear the gradients."""
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self) -> dict:
        """State of both optimizers."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore the state returned by `state_dict`."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])

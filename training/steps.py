"""One step of the denoiser's training, in a way that suits a CPU and in one that suits a GPU."""

import copy
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor, nn

from training.critic import Critic, critic_loss, realism_loss
from training.diffusion import Batch, Diffusion
from training.muon import MixedOptimizer


Losses = Callable[[nn.Module, Batch], dict[str, Tensor]]
LARGEST_GRADIENT = 1.0
CRITIC_RATE = 3e-4
CRITIC_SHARE = 0.7
CRITIC_ALONE = (100, 300)  # steps in which the critic only learns, and in which its say grows
LARGEST_JUDGED = 450  # above this timestep even the outline of a face is a guess


class Step:
    """The losses of a batch, of which the one named "loss" is learnt from.

    Args:
        losses (`Callable`): takes the network and a batch.
        forward (`nn.Module`): what is called with the batch; the network itself, or its data-parallel form.
        network (`nn.Module`): whose parameters are trained.
        optimizer (`MixedOptimizer`): of these parameters.
    """

    def __init__(self, losses: Losses, forward: nn.Module, network: nn.Module, optimizer: MixedOptimizer) -> None:
        self.losses, self.forward, self.network, self.optimizer = losses, forward, network, optimizer

    def __call__(self, batch: Batch, rate: float) -> dict[str, Tensor]:
        """Learn from a batch at `rate` of the peak learning rate; returns the losses, without gradients."""
        self.optimizer.set_rate(rate)
        return self._learn(batch)

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        losses = self.losses(self.forward, batch)
        losses["loss"].backward()
        self._update()
        return {name: loss.detach() for name, loss in losses.items()}

    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()


class RecordedStep(Step):
    """The same on a GPU: a copy of the network in bfloat16 is called, and the whole step is replayed as a CUDA graph.

    The network is so small that a GPU otherwise waits for Python most of the time. All batches must be of one shape.
    """

    def __init__(self, losses: Losses, network: nn.Module, optimizer: MixedOptimizer) -> None:
        super().__init__(losses, copy.deepcopy(network).bfloat16(), network, optimizer)
        torch.backends.cudnn.benchmark = True
        self._pairs = [(a, b) for a, b in zip(network.parameters(), self.forward.parameters()) if a.requires_grad]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch, rate: float) -> dict[str, Tensor]:
        self.optimizer.set_rate(rate)
        if self._graph is None:
            self._record(batch)
        assert self._graph is not None
        for field in fields(batch):
            getattr(self._batch, field.name).copy_(getattr(batch, field.name))
        self._graph.replay()
        return {name: loss.clone() for name, loss in self._losses.items()}

    def _record(self, batch: Batch) -> None:
        """Three steps in earnest, in which libraries choose their kernels, then the recording."""
        self._batch = batch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._learn(batch)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses = self._learn(batch)

    def _update(self) -> None:
        for own, called in self._pairs:
            assert called.grad is not None
            own.grad, called.grad = called.grad.float(), None
        super()._update()
        with torch.no_grad():
            torch._foreach_copy_([called for _, called in self._pairs], [own for own, _ in self._pairs])


class CriticalStep(RecordedStep):
    """A recorded step in which a critic has its say on how sharp the predictions are.

    The critic's gradient is made `CRITIC_SHARE` times as long as the error's, whatever the critic thinks: neither can
    run away with the network. It has its say only once it has learnt a little itself.
    """

    def __init__(self, diffusion: Diffusion, network: nn.Module, optimizer: MixedOptimizer) -> None:
        super().__init__(lambda called, batch: {"loss": diffusion.loss(called, batch)}, network, optimizer)
        device = diffusion.device
        self.diffusion, self.critic = diffusion, Critic().to(device)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=CRITIC_RATE, betas=(0.0, 0.99), fused=True, capturable=device.type == "cuda"
        )
        self._share, self._steps = torch.zeros((), device=device), 0

    def __call__(self, batch: Batch, rate: float) -> dict[str, Tensor]:
        alone, together = CRITIC_ALONE
        self._share.fill_(CRITIC_SHARE * min(1.0, max(0.0, (self._steps - alone) / together)))
        self._steps += 1
        return super().__call__(batch, rate)

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        prediction = self.diffusion.prediction(self.forward, batch)
        counted = (batch.timesteps < LARGEST_JUDGED).float()
        error = self.diffusion.weighted(prediction.errors(), batch)
        realism = realism_loss(self.critic, prediction.latents(), counted)
        by_error, by_critic = (
            torch.autograd.grad(loss, prediction.noise, retain_graph=True)[0] for loss in (error, realism)
        )
        share = self._share * by_error.norm() / (by_critic.norm() + 1e-12)
        prediction.noise.backward(by_error + share * by_critic)
        self._update()
        told_apart = critic_loss(self.critic, prediction.latents().detach(), batch.wanted, counted)
        told_apart.backward()
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad()
        return {"loss": error.detach(), "realism": realism.detach(), "critic": told_apart.detach()}

"""One step of the denoiser's training, in a way that suits a CPU and in one that suits a GPU."""

import copy
from dataclasses import fields

import torch
from torch import Tensor, nn

from training.critic import Critic, critic_loss, realism_loss
from training.diffusion import Batch, Diffusion, GuidedBatch, Prediction
from training.muon import MixedOptimizer


LARGEST_GRADIENT = 1.0
CRITIC_RATE = 3e-4
CRITIC_SHARE = 0.7
CRITIC_ALONE = (100, 300)  # steps in which the critic only learns, and in which its say grows
GUIDED_STEPS = 3  # as the default settings take, but for the last, which changes next to nothing
GUIDED_CRITIC_LENGTH = 0.01  # of the critic's gradient there, of a sample
LARGEST_JUDGED = 450  # above this timestep even the outline of a face is a guess

# (B, 4, 32, 32) latents that were predicted, and (B,) whether the critic is to judge them.
Judged = tuple[Tensor, Tensor]


class Step:
    """Learns from one batch after the other, all of one shape.

    On a GPU a copy of the network in bfloat16 is called, and the whole step is replayed as a CUDA graph: the network is
    so small that a GPU otherwise waits for Python most of the time.

    Args:
        diffusion (`Diffusion`): the noise schedule and the error.
        network (`nn.Module`): whose parameters are trained.
        optimizer (`MixedOptimizer`): of these parameters.
        parallel (`nn.Module`, *optional*): the network's data-parallel form.
    """

    def __init__(
        self, diffusion: Diffusion, network: nn.Module, optimizer: MixedOptimizer, parallel: nn.Module | None = None
    ) -> None:
        self.diffusion, self.network, self.optimizer = diffusion, network, optimizer
        self.is_recorded = diffusion.device.type == "cuda" and parallel is None
        self.called = parallel or network
        if self.is_recorded:
            torch.backends.cudnn.benchmark = True
            self.called = copy.deepcopy(network).bfloat16()
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch, rate: float) -> dict[str, Tensor]:
        """Learn from a batch at `rate` of the peak learning rate; returns the losses, without gradients."""
        self.optimizer.set_rate(rate)
        if not self.is_recorded:
            return self._learn(batch)
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

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        loss = self.diffusion.loss(self.called, batch)
        loss.backward()
        self._update()
        return {"loss": loss.detach()}

    def _update(self) -> None:
        """Let the optimizer make a step of the gradients that are there."""
        own: list[Tensor] = list(self.network.parameters())
        called: list[Tensor] = list(self.called.parameters())
        if self.is_recorded:
            for parameter, copied in zip(own, called):
                assert copied.grad is not None
                parameter.grad, copied.grad = copied.grad.float(), None
        nn.utils.clip_grad_norm_(own, LARGEST_GRADIENT)
        self.optimizer.step()
        if self.is_recorded:
            with torch.no_grad():
                torch._foreach_copy_(called, own)


class CriticalStep(Step):
    """A step in which a critic has its say on how sharp the predictions are.

    The critic's gradient is made `CRITIC_SHARE` times as long as the error's, whatever the critic thinks: neither can
    run away with the network. It has its say only once it has learnt a little itself.
    """

    def __init__(self, diffusion: Diffusion, network: nn.Module, optimizer: MixedOptimizer) -> None:
        super().__init__(diffusion, network, optimizer)
        device = diffusion.device
        self.critic = Critic().to(device)
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
        losses, judged = self._learn_to_denoise(batch)
        self._update()
        return losses | self._teach_critic([judged], batch.wanted)

    def _learn_to_denoise(self, batch: Batch) -> tuple[dict[str, Tensor], Judged]:
        prediction = self.diffusion.prediction(self.called, batch)
        error = self.diffusion.weighted(prediction.errors(), batch.timesteps)
        latents, counted = prediction.latents(), (batch.timesteps < LARGEST_JUDGED).float()
        realism = realism_loss(self.critic, latents, counted)
        by_error, by_critic = gradients((error, realism), prediction)
        share = self._share * by_error.norm() / (by_critic.norm() + 1e-12)
        prediction.noise.backward(by_error + share * by_critic)
        return {"loss": error.detach(), "realism": realism.detach()}, (latents.detach(), counted)

    def _teach_critic(self, judged: list[Judged], portraits: Tensor) -> dict[str, Tensor]:
        predicted, counted = (torch.cat(column) for column in zip(*judged))
        told_apart = critic_loss(self.critic, predicted, portraits, counted)
        told_apart.backward()
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad()
        return {"critic": told_apart.detach()}


class GuidedStep(CriticalStep):
    """A step in which the critic sees besides what the model is used for: a few guided steps away from a person.

    Each begins where the one before led, with fresh noise. Its prediction is to stay what the network that the training
    began with makes of the same latents, so that it leads as far away from the person, and to look like a portrait.
    """

    def __init__(self, diffusion: Diffusion, network: nn.Module, optimizer: MixedOptimizer) -> None:
        super().__init__(diffusion, network, optimizer)
        self.former = copy.deepcopy(self.called).requires_grad_(False)

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch, GuidedBatch)
        losses, judged = self._learn_to_denoise(batch)
        guided_losses, guided = self._learn_to_go_away(batch)
        self._update()
        return losses | guided_losses | self._teach_critic([judged, *guided], batch.portraits)

    def _learn_to_go_away(self, batch: GuidedBatch) -> tuple[dict[str, Tensor], list[Judged]]:
        timesteps, everywhere = batch.first_timesteps, torch.ones_like(batch.guidance_scales)
        noisy = self.diffusion.noised(batch.portraits, torch.randn_like(batch.portraits), timesteps)
        judged, losses = [], []
        for left in reversed(range(GUIDED_STEPS)):
            with torch.no_grad():
                former = self.diffusion.guided(self.former, noisy, timesteps, batch)
            predicted = self.diffusion.guided(self.called, noisy, timesteps, batch)
            prediction = Prediction(noisy, predicted, former, self.diffusion.alphas[timesteps])
            error = self.diffusion.weighted(prediction.errors() / batch.guidance_scales, timesteps)
            latents = prediction.latents()
            realism = realism_loss(self.critic, latents, everywhere)
            by_error, by_critic = gradients((error, realism), prediction)
            # The error begins at nothing, so that it cannot say how long the critic's gradient by the latents is to be.
            noise_to_signal = ((1.0 - prediction.alphas) / prediction.alphas).sqrt().view(-1, 1, 1, 1)
            length = self._share * GUIDED_CRITIC_LENGTH / len(noisy) ** 0.5
            by_critic = length / ((by_critic / noise_to_signal).norm() + 1e-12) * by_critic
            prediction.noise.backward((by_error + by_critic) / GUIDED_STEPS)
            judged.append((latents.detach(), everywhere))
            losses.append(torch.stack([error.detach(), realism.detach()]))
            timesteps = batch.first_timesteps * left // GUIDED_STEPS
            noisy = self.diffusion.step(prediction, timesteps)
        error, realism = torch.stack(losses).mean(dim=0)
        return {"changed": error, "guided_realism": realism}, judged


def gradients(losses: tuple[Tensor, Tensor], prediction: Prediction) -> list[Tensor]:
    """Of each loss by the predicted noise."""
    return [torch.autograd.grad(loss, prediction.noise, retain_graph=True)[0] for loss in losses]

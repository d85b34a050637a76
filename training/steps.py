"""Optimization steps of the denoiser: plain, adversarial, and guided; recorded on a GPU."""

import copy
from dataclasses import fields

import torch
from torch import Tensor, nn

from training.critic import Critic, adversarial_loss, critic_loss
from training.diffusion import Batch, Diffusion, GuidedBatch, Prediction
from training.muon import MixedOptimizer


MAX_GRADIENT_NORM = 1.0
CRITIC_RATE = 3e-4
CRITIC_WEIGHT = 0.7  # norm of the adversarial gradient, relative to that of the denoising loss
CRITIC_WARMUP = (100, 300)  # steps that train only the critic, then steps in which its weight grows
GUIDED_STEPS = 3  # as by default, except for the last step, which changes almost nothing
GUIDED_CRITIC_NORM = 0.01  # norm of the adversarial gradient per sample in guided steps
MAX_CRITIC_TIMESTEP = 450  # above it, predictions are too uncertain for the critic

# (B, 4, 32, 32) predicted latents, and (B,) whether the critic counts them.
Predicted = tuple[Tensor, Tensor]


class Step:
    """Optimization step of the denoising loss; all batches have one shape.

    On a GPU, the step runs a bfloat16 copy of the network and is replayed as a CUDA graph. The
    network is so small that the GPU would otherwise wait for Python most of the time.

    Args:
        diffusion (`Diffusion`): noise schedule and loss.
        network (`nn.Module`): network to train.
        optimizer (`MixedOptimizer`): optimizer of its parameters.
        parallel (`nn.Module`, *optional*): data-parallel wrapper of the network.
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
        """Train on a batch at a share `rate` of the peak learning rate; return detached losses."""
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
        """Record the CUDA graph, after three real steps in which libraries choose their kernels."""
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
        """Take an optimizer step on the present gradients, and clear them."""
        own: list[Tensor] = list(self.network.parameters())
        called: list[Tensor] = list(self.called.parameters())
        if self.is_recorded:
            for parameter, copied in zip(own, called):
                assert copied.grad is not None
                parameter.grad, copied.grad = copied.grad.float(), None
        nn.utils.clip_grad_norm_(own, MAX_GRADIENT_NORM)
        self.optimizer.step()
        if self.is_recorded:
            with torch.no_grad():
                torch._foreach_copy_(called, own)


class AdversarialStep(Step):
    """Step with an adversarial loss, which makes predictions sharp.

    The adversarial gradient is scaled to `CRITIC_WEIGHT` times the norm of the denoising gradient,
    so that neither dominates. The weight is 0 until the critic has learned a little itself.
    """

    def __init__(self, diffusion: Diffusion, network: nn.Module, optimizer: MixedOptimizer) -> None:
        super().__init__(diffusion, network, optimizer)
        device = diffusion.device
        self.critic = Critic().to(device)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=CRITIC_RATE, betas=(0.0, 0.99), fused=True, capturable=device.type == "cuda"
        )
        self._weight, self._steps = torch.zeros((), device=device), 0

    def __call__(self, batch: Batch, rate: float) -> dict[str, Tensor]:
        alone, growing = CRITIC_WARMUP
        self._weight.fill_(CRITIC_WEIGHT * min(1.0, max(0.0, (self._steps - alone) / growing)))
        self._steps += 1
        return super().__call__(batch, rate)

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        losses, predicted = self._backward_denoising(batch)
        self._update()
        return losses | self._train_critic([predicted], batch.targets)

    def _backward_denoising(self, batch: Batch) -> tuple[dict[str, Tensor], Predicted]:
        prediction = self.diffusion.prediction(self.called, batch)
        error = self.diffusion.weighted(prediction.errors(), batch.timesteps)
        latents, counted = prediction.latents(), (batch.timesteps < MAX_CRITIC_TIMESTEP).float()
        adversarial = adversarial_loss(self.critic, latents, counted)
        by_error, by_critic = gradients((error, adversarial), prediction)
        scale = self._weight * by_error.norm() / (by_critic.norm() + 1e-12)
        prediction.noise.backward(by_error + scale * by_critic)
        return {"loss": error.detach(), "adversarial": adversarial.detach()}, (latents.detach(), counted)

    def _train_critic(self, predicted: list[Predicted], real: Tensor) -> dict[str, Tensor]:
        latents, counted = (torch.cat(column) for column in zip(*predicted))
        loss = critic_loss(self.critic, latents, real, counted)
        loss.backward()
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad()
        return {"critic": loss.detach()}


class GuidedStep(AdversarialStep):
    """Step that also trains on some guided denoising steps away from a person, as in anonymization.

    Each guided step begins at the result of the one before, with fresh noise. Its loss keeps the
    prediction close to that of the initial network, so that it moves as far away from the person;
    the adversarial loss makes it look like a portrait.
    """

    def __init__(self, diffusion: Diffusion, network: nn.Module, optimizer: MixedOptimizer) -> None:
        super().__init__(diffusion, network, optimizer)
        self.initial = copy.deepcopy(self.called).requires_grad_(False)

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch, GuidedBatch)
        losses, predicted = self._backward_denoising(batch)
        guided_losses, guided = self._backward_guided(batch)
        self._update()
        return losses | guided_losses | self._train_critic([predicted, *guided], batch.portraits)

    def _backward_guided(self, batch: GuidedBatch) -> tuple[dict[str, Tensor], list[Predicted]]:
        timesteps, all_counted = batch.first_timesteps, torch.ones_like(batch.guidance_scales)
        noisy = self.diffusion.noised(batch.portraits, torch.randn_like(batch.portraits), timesteps)
        results, losses = [], []
        for left in reversed(range(GUIDED_STEPS)):
            with torch.no_grad():
                initial = self.diffusion.guided(self.initial, noisy, timesteps, batch)
            predicted = self.diffusion.guided(self.called, noisy, timesteps, batch)
            prediction = Prediction(noisy, predicted, initial, self.diffusion.alphas[timesteps])
            error = self.diffusion.weighted(prediction.errors() / batch.guidance_scales, timesteps)
            latents = prediction.latents()
            adversarial = adversarial_loss(self.critic, latents, all_counted)
            by_error, by_critic = gradients((error, adversarial), prediction)
            # The error starts at 0 and cannot set the scale: the gradient has a fixed norm.
            noise_to_signal = ((1.0 - prediction.alphas) / prediction.alphas).sqrt().view(-1, 1, 1, 1)
            norm = self._weight * GUIDED_CRITIC_NORM / len(noisy) ** 0.5
            by_critic = norm / ((by_critic / noise_to_signal).norm() + 1e-12) * by_critic
            prediction.noise.backward((by_error + by_critic) / GUIDED_STEPS)
            results.append((latents.detach(), all_counted))
            losses.append(torch.stack([error.detach(), adversarial.detach()]))
            timesteps = batch.first_timesteps * left // GUIDED_STEPS
            noisy = self.diffusion.step(prediction, timesteps)
        error, adversarial = torch.stack(losses).mean(dim=0)
        return {"changed": error, "guided_adversarial": adversarial}, results


def gradients(losses: tuple[Tensor, Tensor], prediction: Prediction) -> list[Tensor]:
    """Gradient of each loss by the predicted noise."""
    return [torch.autograd.grad(loss, prediction.noise, retain_graph=True)[0] for loss in losses]

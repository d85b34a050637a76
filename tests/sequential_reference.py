"""The method written down as plainly as possible: one image, one step and one UNet evaluation at a
time.

It shares no code with the package. The tests require the pipeline's batched computation to equal
it.
"""

import math
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline


# A timestep, and the prediction of the clean latents there.
Former = tuple[int, torch.Tensor]


class SequentialNullFace:
    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.unet_evaluations = 0
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
        self.alphas_cumprod = torch.cumprod(1.0 - betas, dim=0).tolist()

    @torch.no_grad()
    def text(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Text conditioning of the empty prompt, and added conditions."""
        tokens = self.pipe.tokenizer("", padding="max_length", max_length=8, return_tensors="pt").input_ids
        return self.pipe.text_encoder(tokens)[0], {}

    @torch.no_grad()
    def predict(self, x: torch.Tensor, t: int, embedding: torch.Tensor) -> torch.Tensor:
        self.unet_evaluations += 1
        prompt_embeds, added = self.conditions
        return self.pipe.unet(
            x,
            t,
            encoder_hidden_states=prompt_embeds,
            added_cond_kwargs={"image_embeds": [embedding.view(1, 1, -1)], **added},
        ).sample

    def mean_and_std(
        self, x: torch.Tensor, eps: torch.Tensor, t: int, next_t: int, eta: float
    ) -> tuple[torch.Tensor, float]:
        a, a_prev = self.alphas_cumprod[t], self.alphas_cumprod[next_t]
        v = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
        x0_hat = (x - (1 - a) ** 0.5 * eps) / a**0.5
        return a_prev**0.5 * x0_hat + (1 - a_prev - eta * v) ** 0.5 * eps, eta * v**0.5

    def second_order_mean_and_std(
        self, x: torch.Tensor, eps: torch.Tensor, t: int, next_t: int, former: Former | None
    ) -> tuple[torch.Tensor, float, Former]:
        """As the paper of DPM-Solver++ writes its SDE variant; `former` is the step before and its
        clean latents.
        """

        def alpha_sigma_lambda(t: int) -> tuple[float, float, float]:
            alpha, sigma = self.alphas_cumprod[t] ** 0.5, (1 - self.alphas_cumprod[t]) ** 0.5
            return alpha, sigma, math.log(alpha / sigma)

        (alpha_s, sigma_s, lambda_s), (alpha_t, sigma_t, lambda_t) = alpha_sigma_lambda(t), alpha_sigma_lambda(next_t)
        h = lambda_t - lambda_s
        target = x0_hat = (x - sigma_s * eps) / alpha_s
        if former is not None:
            former_t, former_x0_hat = former
            r = (lambda_s - alpha_sigma_lambda(former_t)[2]) / h
            target = x0_hat + (x0_hat - former_x0_hat) / (2 * r)
        mean = sigma_t / sigma_s * math.exp(-h) * x + alpha_t * (1 - math.exp(-2 * h)) * target
        return mean, sigma_t * (1 - math.exp(-2 * h)) ** 0.5, (t, x0_hat)

    def __call__(
        self,
        x0: torch.Tensor,
        embedding: torch.Tensor,
        generator: torch.Generator | None,
        steps: int = 100,
        skip: float = 0.7,
        guidance: float = 10.0,
        eta: float = 1.0,
        mask: torch.Tensor | None = None,
        mask_start: float = 0.8,
        identity_scale: float = 1.0,
        timesteps: list[int] | None = None,
        solver_order: int = 1,
    ) -> torch.Tensor:
        """x0: (1, C, h, w) latents; embedding: (1, 512) unit norm; mask: (1, 1, h, w). Returns (1,
        C, h, w).
        """
        self.conditions = self.text(x0)
        stride = 1000 // steps
        whole = [stride * i + 1 for i in range(steps)][::-1]
        kept = timesteps or whole[round(steps * skip) :]
        masked = [] if mask is None else whole[round(steps * mask_start) :]
        following = dict(zip(kept, [*kept[1:], 0]))

        points = {}
        for t in kept[::-1]:
            noise = torch.randn(x0.shape, generator=generator).to(x0.dtype)
            a = self.alphas_cumprod[t]
            points[t] = a**0.5 * x0 + (1 - a) ** 0.5 * noise

        null_embedding = torch.zeros_like(embedding)
        noise_maps, former = {}, None
        for t in kept:
            eps = self.predict(points[t], t, null_embedding)
            if solver_order == 2:
                mean, std, former = self.second_order_mean_and_std(points[t], eps, t, following[t], former)
            else:
                mean, std = self.mean_and_std(points[t], eps, t, following[t], eta)
            noise_maps[t] = (points.get(following[t], x0) - mean) / std
        noise_maps[kept[-1]] = torch.zeros_like(x0)

        x, former = points[kept[0]], None
        opposite = -identity_scale * embedding
        for t in kept:
            unconditional = self.predict(x, t, null_embedding)
            difference = guidance * (self.predict(x, t, opposite) - unconditional)
            if mask is not None and t <= masked[0]:
                difference = mask * difference
            eps = unconditional + difference
            if solver_order == 2:
                mean, std, former = self.second_order_mean_and_std(x, eps, t, following[t], former)
            else:
                mean, std = self.mean_and_std(x, eps, t, following[t], eta)
            x = mean + std * noise_maps[t]
        return x


class SequentialNullFaceXL(SequentialNullFace):
    """The same for Stable Diffusion XL: the text and the added conditions are those of diffusers'
    own pipeline.
    """

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self.base = StableDiffusionXLPipeline(**pipe.components, add_watermarker=False)

    @torch.no_grad()
    def text(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        prompt_embeds, _, pooled, _ = self.base.encode_prompt("", do_classifier_free_guidance=False)
        size = tuple(side * self.pipe.vae_scale_factor for side in x.shape[-2:])
        projection_dim = self.pipe.text_encoder_2.config.projection_dim
        time_ids = self.base._get_add_time_ids(size, (0, 0), size, x.dtype, projection_dim)
        return prompt_embeds, {"text_embeds": pooled, "time_ids": time_ids}

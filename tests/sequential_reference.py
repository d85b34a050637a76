"""The method written down as plainly as possible: one image, one step and one UNet evaluation at a time.

It shares no code with the package. The tests require the pipeline's batched computation to equal it.
"""

import torch


class SequentialNullFace:
    def __init__(self, pipe):
        self.pipe = pipe
        self.unet_evaluations = 0
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
        self.alphas_cumprod = torch.cumprod(1.0 - betas, dim=0).tolist()

    @torch.no_grad()
    def predict(self, x, t, embedding):
        self.unet_evaluations += 1
        tokens = self.pipe.tokenizer("", padding="max_length", max_length=8, return_tensors="pt").input_ids
        return self.pipe.unet(
            x,
            t,
            encoder_hidden_states=self.pipe.text_encoder(tokens)[0],
            added_cond_kwargs={"image_embeds": [embedding.view(1, 1, -1)]},
        ).sample

    def alphas(self, t, step):
        previous = t - step
        return self.alphas_cumprod[t], self.alphas_cumprod[previous if previous >= 0 else 0]

    def mean_and_std(self, x, eps, t, step, eta):
        a, a_prev = self.alphas(t, step)
        v = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
        x0_hat = (x - (1 - a) ** 0.5 * eps) / a**0.5
        return a_prev**0.5 * x0_hat + (1 - a_prev - eta * v) ** 0.5 * eps, eta * v**0.5

    def __call__(
        self, x0, embedding, generator, steps, skip, guidance, eta, mask=None, mask_start=0.8, identity_scale=1.0
    ):
        """x0: (1, C, h, w) latents; embedding: (1, 512) unit norm; mask: (1, 1, h, w). Returns (1, C, h, w)."""
        stride = 1000 // steps
        timesteps = [stride * i + 1 for i in range(steps)][::-1]
        kept = timesteps[round(steps * skip) :]

        points = {}
        for t in kept[::-1]:
            noise = torch.randn(x0.shape, generator=generator)
            a = self.alphas_cumprod[t]
            points[t] = a**0.5 * x0 + (1 - a) ** 0.5 * noise

        nobody = torch.zeros_like(embedding)
        noise_maps = {}
        for i, t in enumerate(kept):
            target = points[kept[i + 1]] if i + 1 < len(kept) else x0
            mean, std = self.mean_and_std(points[t], self.predict(points[t], t, nobody), t, stride, eta)
            noise_maps[t] = (target - mean) / std
        noise_maps[kept[-1]] = torch.zeros_like(x0)

        x = points[kept[0]]
        somebody_else = -identity_scale * embedding
        for t in kept:
            eps_nobody = self.predict(x, t, nobody)
            difference = guidance * (self.predict(x, t, somebody_else) - eps_nobody)
            if mask is not None and timesteps.index(t) >= round(steps * mask_start):
                difference = mask * difference
            mean, std = self.mean_and_std(x, eps_nobody + difference, t, stride, eta)
            x = mean + std * noise_maps[t]
        return x

"""Prompts as token ids."""

from typing import Any

import torch
from diffusers.utils import logging


def tokenize(tokenizer: Any, prompt: str | list[str]) -> torch.Tensor:
    """Token ids of one prompt or N, (N, tokens) int64, padded to the length of the text encoder."""
    longest = tokenizer(prompt, padding="longest", return_tensors="pt").input_ids.shape[-1]
    if longest > tokenizer.model_max_length:
        logging.get_logger(__name__).warning(
            f"A prompt has {longest} tokens; the text encoder takes {tokenizer.model_max_length} and does not see the "
            "rest."
        )
    return tokenizer(
        prompt,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids

"""Learn the significance weights (Eq. 4-7): warm the predictor up under random masks, freeze it, fit the generator.

Why not Eq. 4 as it stands: trained together with the predictor through straight-through Gumbel masks, the
generator masks digits first, before the predictor can read them, and the weights invert or collapse. Here masks are
random, so the predictor can read nothing off the mask pattern and has met every token masked and kept; the
generator is then fitted by least squares to what masking does to the answer's NLL, and w is read off those
effects as the soft minimiser of L_k = L_p + alpha L_m (Eq. 7).
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from kpod.config import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.weighting.module import WeightGenerator
from kpod.weighting.prefixes import MaskedRationale, Predictor

log = logging.getLogger(__name__)

LOWEST_KEPT_RATE = 0.1


def draw_prefixes(num_tokens: int, num_prefixes: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The whole rationale and `num_prefixes` - 1 other lengths, all different; all lengths where there are fewer."""
    others = min(num_prefixes, num_tokens) - 1
    return (num_tokens, *(int(n) for n in rng.choice(np.arange(1, num_tokens), others, replace=False)))


def random_masks(num_tokens: int, num_masks: int, rng: np.random.Generator) -> Bool[Tensor, "masks tokens"]:
    """Antithetic pairs of random masks: each at its own kept rate, its partner keeps exactly the other tokens."""
    rates = rng.uniform(LOWEST_KEPT_RATE, 1 - LOWEST_KEPT_RATE, size=(num_masks // 2, 1))
    keep = rng.random((num_masks // 2, num_tokens)) < rates
    return torch.from_numpy(np.concatenate([keep, ~keep]))

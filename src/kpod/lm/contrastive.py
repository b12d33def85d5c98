"""Contrastive decoding: what one prompt makes more probable than another, token by token (SCOTT)."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from kpod.lm.decoding import Continuation, company, continue_greedily, end_ids
from kpod.lm.models import LanguageModel
from kpod.lm.vocabularies import token_texts
from kpod.records.errors import ConfigError


def continue_contrastively(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    weight: float,
    stops: Sequence[str] = (),
) -> list[Continuation]:
    """The token with the largest log P(v | prompt) - weight * log P(v | other), again and again, after both prompts.

    A text ends where the chosen token, or the prompt's own most probable one, is an end token or spells a stop.

    Args:
        lm: A causal model.
        prompts: Token ids, one batch.
        others: Of each the prompt that is argued against.
        max_new_tokens: Where a text is broken off.
        weight: lambda, at least 0; 0 is greedy decoding of `prompts`.
        stops: Texts at which an answer ends. A token that holds one of them is the last; the text is not cut there.

    Returns:
        One continuation per prompt, in their order.

    Raises:
        ConfigError: If the model reads a prompt otherwise when another stands beside it in a batch.
    """
    if company(lm, [*prompts, *others]) != "any":
        raise ConfigError(
            f"{lm.tokenizer.name_or_path!r} reads a prompt otherwise when another stands beside it in a batch, which "
            "contrastive decoding needs; ask another model, or without teacher.ask.contrastive"
        )
    settings = lm.model.generation_config
    ends = sorted(end_ids(lm, cast("Any", settings)))
    spelt = token_texts(lm.tokenizer) if stops else {}
    wanted = [stop.encode() for stop in stops]
    held = [id_ for id_, text in spelt.items() if isinstance(text, bytes) and any(stop in text for stop in wanted)]
    contrast = Contrast(weight, [lm.end_id, *ends], held)
    written = continue_greedily(lm, [*prompts, *others], max_new_tokens, processor=LogitsProcessorList([contrast]))
    return written[: len(prompts)]


class Contrast(LogitsProcessor):
    """Gives both halves of a batch the same scores: those of the first half less a share of the second's.

    Args:
        weight: The share.
        ends: Tokens that end a text where the first half finds one of them the most probable, or the scores do; the
            first of them is then written.
        held: Tokens that hold a text at which an answer ends. They end it too, but one that has the largest score is
            written before, since an answer's last characters may stand in it.
    """

    def __init__(self, weight: float, ends: Sequence[int], held: Sequence[int] = ()) -> None:
        self.weight = weight
        self.ends, self.held = (torch.tensor(list(ids), dtype=torch.long) for ids in (ends, held))
        self.num_read: int | None = None

    def __call__(
        self, input_ids: Int[Tensor, "rows read"], scores: Float[Tensor, "rows vocabulary"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """The scores of the next token."""
        gold, other = scores.float().log_softmax(dim=-1).chunk(2)
        found = gold - self.weight * other if self.weight else gold.clone()
        found = found.masked_fill(gold == -torch.inf, -torch.inf)  # also where neither prompt can be followed by it
        ends, held = self.ends.to(scores.device), self.held.to(scores.device)
        plain, chosen = gold.argmax(dim=-1), found.argmax(dim=-1)
        stops = torch.isin(plain, torch.cat([ends, held])) & ~torch.isin(chosen, held)
        over = stops | torch.isin(chosen, ends)
        if self.num_read is None:
            self.num_read = input_ids.shape[1]
        elif input_ids.shape[1] > self.num_read:
            over |= torch.isin(input_ids[: len(gold), -1], held)
        found[over] = -torch.inf
        found[over, ends[0]] = 0
        return torch.cat([found, found])

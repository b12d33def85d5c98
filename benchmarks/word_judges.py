"""Judges of learnt token weights that the digit rule cannot satisfy: operation words, and other classes of words."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from word_classes import in_first_step, token_classes

from kpod import DataError, MaskedRationale, Predictor, TokenizedRationale
from kpod.records import Span

PLAIN_WORDS = ("other", "quantity", "comparison")
"""The classes of words that operation words are held against."""
MOST_RATIONALES = 80
Weights = Mapping[str, NDArray[np.float32]]


def first_step_words(tokens: TokenizedRationale, text: str) -> NDArray[np.bool_]:
    """Which tokens are operation words of the first step that stand before the answer is stated."""
    prefix = tokens.before_answer or 0
    operations = np.array([name == "operation" for name in token_classes(tokens.char_spans, text)])
    return operations & in_first_step(tokens) & (np.arange(tokens.num_tokens) < prefix)


@torch.no_grad()
def first_step_words_rise(
    predictor: Predictor, tokens: Sequence[TokenizedRationale], texts: Mapping[str, str], seed: int = 0
) -> dict[str, float]:
    """How much the answer's NLL rises when the operation words of the first step are masked.

    The answer is asked after the tokens that stand before it is stated for the first time. Rationales without an
    operation word there are left out; of the others at most 80 are drawn.

    Args:
        predictor: What answers, with or without training.
        tokens: Rationales whose answer is right.
        texts: Rationale id -> its text.
        seed: Of the draw.

    Returns:
        `first_step_words_rise` in nats, its standard error `..._se` and the number of rationales `..._num`.

    Raises:
        DataError: If fewer than two rationales have such a word.
    """
    found = [(t, first_step_words(t, texts[t.id])) for t in tokens]
    asked = [(t, hidden) for t, hidden in found if hidden.any()]
    if len(asked) < 2:
        raise DataError("fewer than two rationales name an operation in their first step before they state the answer")
    order = np.random.default_rng(seed).permutation(len(asked))[:MOST_RATIONALES]
    rises = []
    for one, hidden in (asked[index] for index in order):
        prefixes = (one.before_answer or one.num_tokens,)
        whole = torch.ones(one.num_tokens, dtype=torch.bool)
        masks = (whole, ~torch.from_numpy(hidden))
        nll = predictor([MaskedRationale(one, keep, prefixes) for keep in masks])[:, 0].double()
        rises.append(float(nll[1] - nll[0]))
    return {
        "first_step_words_rise": float(np.mean(rises)),
        "first_step_words_rise_se": float(np.std(rises, ddof=1) / math.sqrt(len(rises))),
        "first_step_words_rise_num": len(rises),
    }


def operation_words_auc(
    tokens: Sequence[TokenizedRationale],
    texts: Mapping[str, str],
    weights: Weights,
    fillers: Mapping[str, Sequence[Span]] | None = None,
) -> dict[str, float]:
    """How well weights tell operation words from all other words: AUC over tokens, for first steps, later ones, both.

    Numbers, operators, punctuation and planted fillers are left out. The digit rule gives all these tokens one weight,
    so its AUC is 0.5.

    Args:
        tokens: The rationales.
        texts: Rationale id -> its text.
        weights: Rationale id -> a weight per token.
        fillers: Rationale id -> where fillers were planted in its text; None: nowhere.

    Returns:
        `auc_operation_words` with `_first_step` and `_later_steps`, and of each the number of tokens of operation words
        as `num_...`. An AUC is NaN where one of the two groups is empty.
    """
    groups: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for one in tokens:
        names = _classes(one, texts, fillers)
        for name, first, weight in zip(names, in_first_step(one).tolist(), weights[one.id].tolist(), strict=True):
            if name == "operation" or name in PLAIN_WORDS:
                groups["operation" if name == "operation" else "plain", first].append(weight)
    figures = {}
    for suffix, parts in (("", (True, False)), ("_first_step", (True,)), ("_later_steps", (False,))):
        operations, plain = ([w for part in parts for w in groups[name, part]] for name in ("operation", "plain"))
        figures[f"auc_operation_words{suffix}"] = auc(operations, plain)
        figures[f"num_operation_words{suffix}"] = len(operations)
    return figures


def weights_by_class(
    tokens: Sequence[TokenizedRationale],
    texts: Mapping[str, str],
    weights: Weights,
    fillers: Mapping[str, Sequence[Span]] | None = None,
) -> dict[str, float]:
    """Mean, spread (standard deviation) and number of each class's weights, and AUCs that the digit rule cannot have.

    Args:
        tokens: As for `operation_words_auc`, and so are the others.

    Returns:
        `mean_C`, `sd_C` and `num_C` of every class C that occurs, and `auc_quantity` and `auc_comparison` against the
        class `other`.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for one in tokens:
        for name, weight in zip(_classes(one, texts, fillers), weights[one.id].tolist(), strict=True):
            if name is not None:
                groups[name].append(weight)
    figures: dict[str, float] = {}
    for name, values in sorted(groups.items()):
        figures |= {f"mean_{name}": float(np.mean(values)), f"sd_{name}": float(np.std(values))}
        figures[f"num_{name}"] = len(values)
    return figures | {f"auc_{name}": auc(groups[name], groups["other"]) for name in ("quantity", "comparison")}


def auc(ones: Sequence[float], others: Sequence[float]) -> float:
    """How often a weight of the first group is the larger one of a pair, ties by half; NaN without pairs.

    Example:
        >>> auc([0.9, 0.4], [0.4, 0.1])
        0.875
    """
    if not (ones and others):
        return math.nan
    return float(roc_auc_score([1] * len(ones) + [0] * len(others), [*ones, *others]))


def _classes(
    tokens: TokenizedRationale, texts: Mapping[str, str], fillers: Mapping[str, Sequence[Span]] | None
) -> list[str | None]:
    """The tokens' classes; `filler` for those that end in a planted filler."""
    planted = (fillers or {}).get(tokens.id, ())
    names = token_classes(tokens.char_spans, texts[tokens.id])
    return [
        "filler" if name and any(start < stop <= end for start, end in planted) else name
        for name, (_, stop) in zip(names, tokens.char_spans, strict=True)
    ]

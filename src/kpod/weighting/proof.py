"""Test how a predictor can be asked, before any expensive work.

Masks need a model that reads embeddings in place of token ids, and answering after all prefixes in one pass needs one
that keeps to the attention mask and the positions it is given. Sliding windows, recurrent layers, convolutions and
ALiBi do not. No list of names decides: the model is asked both ways, and the numbers are compared in float32, whatever
the run's precision.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from kpod.lm.models import LanguageModel
from kpod.lm.precision import in_float32
from kpod.recipe import WeightingConfig
from kpod.records import TokenizedRationale
from kpod.records.errors import WeightingError
from kpod.weighting.layouts import MaskedRationale
from kpod.weighting.masks import draw_prefixes, random_mask
from kpod.weighting.predictor import with_adapters
from kpod.weighting.prefixes import Predictor, inside

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Nats by which an answer's NLL may differ. So may a rationale's NLL divided by the square root of its tokens."""
COARSE = 0.05
"""The same for embeddings, if the GPU cannot hold the model in float32."""
NUM_READ = 32
"""How many tokens test whether a model reads embeddings as it reads token ids."""
INSTEAD = (
    "name another model in weighting.predictor, or choose a method that learns no weights, such as kpod-wo-sig or scotd"
)


@dataclass(frozen=True)
class Proof:
    """How a predictor is asked, and why.

    Attributes:
        one_pass: Whether all prefixes of a rationale are answered in one pass.
        difference: Largest difference between one pass and separate passes, in nats; None where none was measured.
        reason: Why prefixes go separately, in a few words; empty where they do not.
    """

    one_pass: bool
    difference: float | None = None
    reason: str = ""


def prove(predictor: Predictor, tokens: Sequence[TokenizedRationale], config: WeightingConfig, seed: int) -> Proof:
    """Find out how a predictor can be asked, and set it up for that.

    The model is asked about the longest rationale, since a window shorter than every sequence of a run changes
    nothing, and about the shortest beside it. Random numbers, dropout and the model's precision are left as they were.

    Args:
        predictor: Its `one_pass`, `embedding_factor` and `mask_vector` are set.
        tokens: All rationales of the run.
        config: The recipe's `weighting`.
        seed: Of the masks and prefixes that are compared.

    Raises:
        WeightingError: If the model cannot be given embeddings, or reads them in another way than token ids.
    """
    longest = max(tokens, key=lambda rationale: rationale.segment_stops[3])
    shortest = min(tokens, key=lambda rationale: rationale.segment_stops[3])
    rng = np.random.default_rng(seed)
    first, second = (
        MaskedRationale(one, random_mask(one.num_tokens, rng), draw_prefixes(one, config.prefixes, rng))
        for one in (longest, shortest)
    )
    again = replace(first, keep=random_mask(longest.num_tokens, rng))
    try:
        with _undisturbed(predictor, precise=True):
            _scale_embeddings(predictor, longest, TOLERANCE)
            found = Proof(one_pass=False) if predictor.lm.encoder_decoder else _compare(predictor, first, again, second)
    except torch.OutOfMemoryError:
        with _undisturbed(predictor, precise=False):
            _scale_embeddings(predictor, longest, COARSE)
        found = Proof(one_pass=False, reason="the device has too little memory to compare it with one pass in float32")
    predictor.one_pass = found.one_pass
    if found.reason:
        log.warning("weights: prefixes are answered one by one: %s", found.reason)
    return found


def _compare(predictor: Predictor, first: MaskedRationale, again: MaskedRationale, second: MaskedRationale) -> Proof:
    """One pass against separate passes: rows of different lengths, and one rationale under two masks."""
    predictor.one_pass = False
    separate = _answers(predictor, [first, second]), predictor([again])
    predictor.one_pass = True
    try:
        together = _answers(predictor, [first, second]), predictor([first, again])[1:]  # which share their question
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the model's own code raises, separate passes work
        return Proof(one_pass=False, reason=f"one pass fails with {type(error).__name__}: {_first_line(error)}")
    difference = max(_gap(one, other) for one, other in zip(together, separate, strict=True))
    if difference <= TOLERANCE:
        return Proof(one_pass=True, difference=difference)
    causes = "sliding windows, recurrent layers or ALiBi cause this"
    why = f"in one pass the answer's NLL is off by {difference:.2g} nats ({causes})"
    return Proof(one_pass=False, difference=difference, reason=why)


def _answers(predictor: Predictor, rows: Sequence[MaskedRationale]) -> Float[Tensor, "rows owners"]:
    """The answer's NLL after each prefix, and in the last column the rationale's over the root of its tokens.

    Rounding adds up as the root of their number does. A window touches few tokens, which a mean would drown.
    """
    found = []
    for part in predictor.passes(rows):
        answers, rationale = predictor.write(part)
        if rationale is None:
            raise TypeError("an encoder-decoder predictor has nothing to compare")
        lengths = torch.tensor([row.tokens.num_tokens for row in part]).to(rationale)
        found.append((answers.flatten(), rationale / lengths.sqrt()))
    answers = torch.cat([part for part, _ in found]).view(len(rows), len(rows[0].prefixes))
    written = torch.cat([part for _, part in found]).view(len(rows), -1).sum(dim=1, keepdim=True)
    return torch.cat([answers, written], dim=1)


def check_predictor(lm: LanguageModel, config: WeightingConfig) -> None:
    """Refuse a model that could not learn weights, before anything is paid for: it needs no rationale.

    Args:
        lm: The model, with its weights; it gets adapters.
        config: The recipe's `weighting`.

    Raises:
        ConfigError: If it cannot carry adapters.
        WeightingError: As `embedding_factor`.
    """
    predictor = with_adapters(lm, config)
    some = range(min(NUM_READ, lm.vocabulary or NUM_READ))
    try:
        with _undisturbed(predictor, precise=True):
            embedding_factor(predictor.lm, some)
    except torch.OutOfMemoryError:
        with _undisturbed(predictor, precise=False):
            embedding_factor(predictor.lm, some, COARSE)


# -- embeddings in place of token ids ------------------------------------------------------------------


def _scale_embeddings(predictor: Predictor, tokens: TokenizedRationale, tolerance: float) -> None:
    """Have the predictor give its model embeddings, and a mask vector, of the size that the model reads."""
    factor = embedding_factor(predictor.lm, tokens.token_ids[:NUM_READ].tolist(), tolerance)
    if predictor.embedding_factor != factor:
        predictor.mask_vector.mul_(factor / predictor.embedding_factor)
        predictor.embedding_factor = factor


def embedding_factor(
    lm: LanguageModel, token_ids: Sequence[int] | NDArray[np.int32], tolerance: float = TOLERANCE
) -> float:
    """What a model multiplies the embeddings of token ids by, where it leaves those that it is given as they are.

    It is 1 for most models: they multiply in the embedding layer, in both cases, or not at all. Pegasus, Marian and
    Falcon-H1 multiply between the two.

    Args:
        lm: In evaluation mode and without gradients.
        token_ids: Any sequence of a few tokens.
        tolerance: Of the log P of these tokens, in nats.

    Raises:
        WeightingError: If the model with its adapters cannot answer, cannot be given embeddings, or reads them
            otherwise than token ids.
    """
    ids = torch.as_tensor(np.asarray(token_ids), device=lm.device).long()[None]
    embedded = lm.model.get_input_embeddings()(ids)  # type: ignore[operator]
    mean = embedded.mean(dim=1, keepdim=True)
    what = "answer"
    try:
        by_ids, first = _log_chances(lm, ids, {"input_ids": ids})
        what = "read embeddings in place of token ids, which masks need"
        _log_chances(lm, ids[:, :1], {"inputs_embeds": mean})  # what no token has; a look-up by embedding fails
        given, seen = _log_chances(lm, ids, {"inputs_embeds": embedded})
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise WeightingError(
            f"{_name(lm)} cannot {what} ({type(error).__name__}: {_first_line(error)}); {INSTEAD}"
        ) from error
    if _gap(by_ids, given) <= tolerance or not by_ids.isfinite().all():  # the first update names what is not finite
        return 1.0
    factor = _ratio(first, seen, embedded)
    rescaled, _ = _log_chances(lm, ids, {"inputs_embeds": embedded * factor})
    gap = _gap(by_ids, rescaled)
    if not gap <= tolerance:
        raise WeightingError(
            f"{_name(lm)} does not read embeddings as it reads their token ids (log P differs by "
            f"{_gap(by_ids, given):.2g} nats; it may look at the ids too), so masks would not hide tokens; {INSTEAD}"
        )
    return factor


def _log_chances(
    lm: LanguageModel, ids: Int[Tensor, "1 length"], inputs: dict[str, Tensor]
) -> tuple[Float[Tensor, " predicted"], dict[nn.Module, Tensor]]:
    """Log P of the ids, each after those before it, and what each layer was first given that looks like embeddings."""
    features = lm.model.get_input_embeddings().weight.shape[-1]  # type: ignore[operator]
    wanted = (*ids.shape, features)
    seen: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.is_floating_point() and tuple(value.shape) == wanted:
                seen.setdefault(module, value.detach().clone())

    handles = [module.register_forward_pre_hook(look, with_kwargs=True) for module in lm.model.modules()]
    start = {} if lm.decoder_start_id is None else {"decoder_input_ids": ids.roll(1)}
    try:
        logits = inside(lm.model)(**inputs, **start, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    right = ids[0] if start else ids[0].roll(-1)
    return logits.float().log_softmax(dim=-1).gather(1, right[:, None])[:, 0], seen


def _ratio(by_ids: dict[nn.Module, Tensor], given: dict[nn.Module, Tensor], embedded: Tensor) -> float:
    """S of by_ids - given = (s - 1) embedded, by least squares, at the first layer that both ways lead through."""
    layer = next((layer for layer in by_ids if layer in given), None)
    if layer is None:
        return 1.0
    wide = embedded.double()
    return 1 + float(((by_ids[layer] - given[layer]).double() * wide).sum() / wide.square().sum())


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


# -- nothing else changes ------------------------------------------------------------------------------


@contextmanager
def _undisturbed(predictor: Predictor, *, precise: bool) -> Iterator[None]:
    """While active, the predictor evaluates, if `precise` in float32; then all is as it was, random numbers too."""
    device = predictor.lm.device
    devices = [device] if device.type == "cuda" else []
    modes = {module: module.training for module in predictor.modules()}
    try:
        with (
            torch.random.fork_rng(devices),
            torch.no_grad(),
            in_float32(predictor.eval()) if precise else nullcontext(),
        ):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _name(lm: LanguageModel) -> str:
    config = getattr(lm.model, "config", None)
    kind = getattr(config, "model_type", type(lm.model).__name__)
    return f"the predictor {cast('str', getattr(config, 'name_or_path', '')) or kind!r} ({kind})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]

"""A Hugging Face model in this process as the teacher: the next batch is tokenised while one is written."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from kpod.lm.contrastive import continue_contrastively
from kpod.lm.decoding import Continuation, continue_greedily, continue_sampled, decode
from kpod.lm.forcing import Expected, expected
from kpod.lm.models import LanguageModel, load_model
from kpod.lm.student_prompts import chat_ids
from kpod.lm.vocabularies import token_texts
from kpod.recipe import AskConfig
from kpod.records.errors import ConfigError
from kpod.records.progress import ProgressBar
from kpod.teacher.attempts import Attempt
from kpod.teacher.replies import attempt_of
from kpod.teacher.requests import Request


class LocalModel:
    """A causal model, on the GPU where there is one.

    Args:
        ask: The model, and how it is sampled from.

    """

    def __init__(self, ask: AskConfig) -> None:
        self.config = ask
        self._texts: dict[int, bytes] = {}

    def ask(self, requests: Sequence[Request], keep: Callable[[Attempt], None]) -> None:
        """Write a text for every request, requests of like length together; a batch is kept when it is written.

        A prompt that leaves too little room in the model's context is a `bad request`, and a model that writes nothing
        has `refused`: it would do so again. Texts of a batch are drawn together, so that a run that was interrupted
        goes on with other draws.

        Raises:
            ConfigError: If the model cannot be loaded, is none that continues a text, or its chat template refuses the
                messages.
        """
        if not requests:
            return
        lm = self._loaded()
        by_length = sorted(requests, key=lambda r: -sum(len(message["content"]) for message in r.messages))
        size = self.config.batch_size
        batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        with (
            ThreadPoolExecutor(1) as background,
            ProgressBar(total=len(requests), name="teacher", unit="requests") as bar,
        ):
            coming = background.submit(_tokenise, lm, batches[0])
            for number, batch in enumerate(batches):
                prompts = coming.result()
                if number + 1 < len(batches):
                    coming = background.submit(_tokenise, lm, batches[number + 1])
                for attempt in self._write(lm, batch, prompts):
                    keep(attempt)
                bar.update(len(batch))

    def _loaded(self) -> LanguageModel:
        try:
            lm = load_model(self.config.model, self.config.precision)
        except ConfigError as error:
            raise ConfigError(f"teacher.ask.model: {error}") from error
        if lm.encoder_decoder:
            raise ConfigError(f"teacher.ask.model: {self.config.model!r} is an encoder-decoder; name a causal model")
        return lm

    def _write(self, lm: LanguageModel, batch: Sequence[Request], prompts: Sequence[list[int]]) -> list[Attempt]:
        limit, start = self.config.max_tokens or 0, time.monotonic()  # the config refuses null for a local model
        against = [chat_ids(lm, request.against) if request.against else [] for request in batch]
        longest = [max(len(ids), len(other)) for ids, other in zip(prompts, against, strict=True)]
        fits = [lm.context is None or length + limit <= lm.context for length in longest]
        asked = [ids for ids, fit in zip(prompts, fits, strict=True) if fit]
        if not asked:
            written = []
        elif (contrastive := self.config.contrastive) is not None:
            others, stops = [ids for ids, fit in zip(against, fits, strict=True) if fit], self.config.stop or ()
            written = continue_contrastively(lm, asked, others, limit, weight=contrastive.weight, stops=stops)
        elif not self.config.temperature:
            written = continue_greedily(lm, asked, limit)
        else:
            how = {"temperature": self.config.temperature, "top_p": self.config.top_p or 1.0}
            written = [one for (one,) in continue_sampled(lm, asked, limit, number=1, seed=batch[0].seed, **how)]
        seconds, texts = (time.monotonic() - start) / max(1, len(asked)), iter(written)
        told = iter(self._logprobs(lm, asked, written))
        return [
            self._attempt(lm, request, ids, next(texts), next(told), seconds)
            if fit
            else Attempt(request.key, "bad request", detail=f"{len(ids)} tokens and {limit} do not fit {lm.context}")
            for request, ids, fit in zip(batch, prompts, fits, strict=True)
        ]

    def _logprobs(
        self, lm: LanguageModel, asked: Sequence[list[int]], written: Sequence[Continuation]
    ) -> Iterable[Expected | None]:
        """What the model expected at each token that it wrote, before temperature and top_p, where that is wanted.

        The texts are read once more: while they are written, no more of their logits are kept than a step's.
        """
        if self.config.logprobs is None:
            return [None] * len(written)
        texts = [(ids, one.token_ids) for ids, one in zip(asked, written, strict=True)]
        return expected(lm, texts, max(1, self.config.logprobs))

    def _attempt(
        self,
        lm: LanguageModel,
        request: Request,
        prompt: Sequence[int],
        written: Continuation,
        told: Expected | None,
        seconds: float,
    ) -> Attempt:
        text, stopped = _cut(decode(lm, written.token_ids), self.config.stop or ())
        choice: dict[str, object] = {
            "message": {"content": text},
            "finish_reason": "stop" if written.finished or stopped else "length",
        }
        if told is not None and (tokens := _told(self._spelt(lm), written, told, text, self.config.logprobs or 0)):
            choice["logprobs"] = {"content": tokens}
        body = {
            "model": self.config.model,
            "choices": [choice],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(written.token_ids)},
        }
        attempt = attempt_of(request.key, body, seconds)
        nothing = attempt.outcome == "empty" and not attempt.only_thought
        return replace(attempt, outcome="refused", detail="wrote nothing") if nothing else attempt

    def _spelt(self, lm: LanguageModel) -> Mapping[int, bytes]:
        """What each token spells; special tokens spell nothing."""
        if not self._texts:
            self._texts = {id_: b"" if isinstance(t, str) else t for id_, t in token_texts(lm.tokenizer).items()}
        return self._texts


def _told(
    spelt: Mapping[int, bytes], written: Continuation, told: Expected, text: str, num_others: int
) -> list[dict[str, object]]:
    """Log-probabilities as an endpoint would send them, of the tokens that spell a text; none where they do not.

    The text lacks outer whitespace, and what stands behind a stop. A token that is cut so has no alternatives.

    Args:
        spelt: What each token spells.
        written: The tokens.
        told: What the model expected at each.
        text: What is left of what they spell.
        num_others: Alternatives for each.
    """
    pieces, wanted = [spelt.get(id_, b"") for id_ in written.token_ids], text.encode()
    start = b"".join(pieces).find(wanted) if wanted else -1
    tokens: list[dict[str, object]] = []
    at = -start
    for number, piece in enumerate(pieces if start >= 0 else []):
        cut = piece[max(0, -at) : max(0, len(wanted) - at)]
        at += len(piece)
        if cut:
            others = zip(told.token_ids[number].tolist(), told.logprobs[number].tolist(), strict=True)
            top = [{"token": _shown(spelt.get(id_, b"")), "logprob": logprob} for id_, logprob in others]
            tokens.append(
                {
                    "token": _shown(cut),
                    "bytes": list(cut),
                    "logprob": float(told.own[number]),
                    "top_logprobs": top[:num_others] if cut == piece else [],
                }
            )
    return tokens


def _shown(piece: bytes) -> str:
    return piece.decode("utf-8", "backslashreplace")


def _tokenise(lm: LanguageModel, batch: Sequence[Request]) -> list[list[int]]:
    return [chat_ids(lm, request.messages) for request in batch]


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first stop string, and whether it holds one."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)

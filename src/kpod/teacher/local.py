"""A Hugging Face model in this process as the teacher: the next batch is tokenised while one is written."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tqdm import tqdm

from kpod.lm.decoding import Continuation, continue_greedily, continue_sampled, decode
from kpod.lm.models import LanguageModel, load_model
from kpod.lm.student_prompts import chat_ids
from kpod.recipe import AskConfig
from kpod.records.errors import ConfigError
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
        with ThreadPoolExecutor(1) as background, tqdm(total=len(requests), desc="teacher", unit=" requests") as bar:
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
        fits = [lm.context is None or len(ids) + limit <= lm.context for ids in prompts]
        asked = [ids for ids, fit in zip(prompts, fits, strict=True) if fit]
        if not asked:
            written = []
        elif not self.config.temperature:
            written = continue_greedily(lm, asked, limit)
        else:
            how = {"temperature": self.config.temperature, "top_p": self.config.top_p or 1.0}
            written = [one for (one,) in continue_sampled(lm, asked, limit, number=1, seed=batch[0].seed, **how)]
        seconds, texts = (time.monotonic() - start) / max(1, len(asked)), iter(written)
        return [
            self._attempt(lm, request, ids, next(texts), seconds)
            if fit
            else Attempt(request.key, "bad request", detail=f"{len(ids)} tokens and {limit} do not fit {lm.context}")
            for request, ids, fit in zip(batch, prompts, fits, strict=True)
        ]

    def _attempt(
        self, lm: LanguageModel, request: Request, prompt: Sequence[int], written: Continuation, seconds: float
    ) -> Attempt:
        text, stopped = _cut(decode(lm, written.token_ids), self.config.stop or ())
        body = {
            "model": self.config.model,
            "choices": [
                {"message": {"content": text}, "finish_reason": "stop" if written.finished or stopped else "length"}
            ],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(written.token_ids)},
        }
        attempt = attempt_of(request.key, body, seconds)
        nothing = attempt.outcome == "empty" and not attempt.only_thought
        return replace(attempt, outcome="refused", detail="wrote nothing") if nothing else attempt


def _tokenise(lm: LanguageModel, batch: Sequence[Request]) -> list[list[int]]:
    return [chat_ids(lm, request.messages) for request in batch]


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first stop string, and whether it holds one."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)

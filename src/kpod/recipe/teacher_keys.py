"""Where rationales come from, and which of them are trained on: the keys under `teacher`."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from kpod.recipe.request_keys import Body, Headers, Query, check_query, check_variable
from kpod.recipe.sections import Count, NotNegative, Positive, Share, Texts, Whole, section
from kpod.records.errors import require


@section("teacher.ask.prompt")
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
    """The user's message if the teacher missed a question and gets the gold answer."""
    examples: str | None = None
    """A rationale file. Its rows precede the question as solved examples (few-shot)."""

    def __post_init__(self) -> None:
        for name in ("template", "hint"):
            value = getattr(self, name)
            require("question" in value, f"teacher.ask.prompt.{name}", value, "a template with {{ question }}")


@section("teacher.ask.prices")
class PricesConfig:
    """What a million tokens cost, in any currency."""

    prompt: NotNegative
    """Of what the teacher reads."""
    completion: NotNegative
    """Of what it writes."""


@section("teacher.ask.contrastive")
class ContrastiveConfig:
    """Contrastive decoding (SCOTT): explain the gold answer by what a wrong one would not make likely.

    A local model reads `prompt.hint` with the gold answer and, beside it, with a wrong one. Each token is the one with
    the largest log P after the first prompt less `weight` times its log P after the second.
    """

    weight: NotNegative = 0.5
    """lambda; 0: greedy decoding of the first prompt."""
    against: Literal["other", "empty"] = "other"
    """The answer in the second prompt. other: another option; yes for no and no for yes; of numbers and other texts the
    answer of another training question (kpod.data.counterfactuals). empty: none."""
    counterfactual: bool = False
    """Also explain the wrong answer, against the gold one. Such rationales are kept apart from the others."""
    seed: Whole = 0
    """Of the wrong answers that are drawn."""


@section("teacher.ask")
class AskConfig:
    """A teacher to ask, and how.

    Model, sampling parameters, extra_body, messages and sample number identify a request. Each request is bought once,
    whatever else changes.
    """

    model: str
    """The model's name at the endpoint; with `backend: local` a Hub name or a folder, with `replay` as recorded."""
    backend: Literal["endpoint", "batch", "local", "replay"] = "endpoint"
    """endpoint: any OpenAI-compatible server, one request per rationale; batch: OpenAI's Batch API; local: a Hugging
    Face model in this process; replay: the attempts of another store, nothing is asked."""
    base_url: str | None = None
    """The endpoint, such as http://127.0.0.1:8000/v1; null: OPENAI_BASE_URL, else OpenAI."""
    api_key_variable: str = "OPENAI_API_KEY"
    """The NAME of the environment variable that holds the key. The key is read only from there and never written."""
    extra_body: Body = field(default_factory=dict)
    """Further keys of every request, any JSON, such as {enable_thinking: false} or {top_k: 20}. A changed value makes
    a new request."""
    extra_headers: Headers = field(default_factory=dict)
    """Further headers of every request. $NAME or ${NAME} in a value stands for an environment variable, so that a
    recipe contains no key: {api-key: $AZURE_KEY}. authorization, api-key and x-api-key replace the key above."""
    extra_query: Query = field(default_factory=dict)
    """Further parameters of the URL, such as {api-version: "2024-10-21"}."""
    replay: str | None = None
    """The store that `backend: replay` answers from."""
    samples: Count = 1
    """Rationales per question. Each is a request with its own seed."""
    temperature: NotNegative | None = 0.7
    """null leaves the parameter out of the request, so that the endpoint decides. This also holds for top_p,
    max_tokens, seed, stop and logprobs."""
    top_p: Share | None = 1.0
    """Sample from the likeliest tokens that have this probability together."""
    max_tokens: Count | None = 512
    """Length at which an answer is cut off. Answers that are cut off are never trained on."""
    seed: Literal["auto"] | None = "auto"
    """auto: every request has its own seed, which is the same in every run; null: no seed is sent."""
    length_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The endpoint's name for `max_tokens`. OpenAI's reasoning models need max_completion_tokens."""
    stop: Texts | None = ()
    """Texts at which an answer ends."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Also keep the log-probabilities of the written tokens and of this many alternatives (0 to 20) for each. A local
    model's are those before temperature and top_p."""
    hint: bool | Literal["always"] = False
    """true: if no rationale of a question reaches the gold answer, ask again with that answer (rationalisation).
    always: ask every question with its gold answer from the start (`prompt.hint` instead of `prompt.template`)."""
    contrastive: ContrastiveConfig | None = None
    """Write by contrastive decoding, with `backend: local`; null: as the keys above say."""
    reasoning: Literal["apart", "rationale"] = "apart"
    """The thoughts of a reasoning model (reasoning_content, <think>): kept apart, or used as the rationale."""
    concurrency: Count = 8
    """Requests at a time."""
    timeout: Positive = 120.0
    """Seconds for a whole answer."""
    retries: Whole = 6
    """How often a request is repeated after a temporary failure, with growing pauses."""
    retry_budget: Count | None = None
    """Repetitions in the whole run; null: as many as requests, at least 100."""
    batch_size: Count = 8
    """Prompts at a time, with `backend: local`."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of the model, with `backend: local`."""
    poll_seconds: Positive = 60.0
    """Seconds between two queries about a batch, with `backend: batch`."""
    store: str | None = None
    """The file that keeps every attempt; null: teacher.jsonl in the folder of all runs."""
    prices: PricesConfig | None = None
    """For the cost in the report and in --dry-run."""
    prompt: TeacherPromptConfig = field(default_factory=TeacherPromptConfig)

    def __post_init__(self) -> None:
        require(bool(self.model.strip()), "teacher.ask.model", self.model, "the teacher's name")
        temperature = self.temperature
        require(all(self.stop or ()), "teacher.ask.stop", self.stop, "texts that are not empty")
        require("@" not in (self.base_url or ""), "teacher.ask.base_url", "a URL with an @", "without user or password")
        check_variable(self.api_key_variable)
        check_query(self.base_url or "", self.extra_query)
        replays = self.backend == "replay"
        require(
            replays == bool(self.replay), "teacher.ask.replay", self.replay, "given with backend: replay, and only then"
        )
        more = self.samples == 1 or temperature is None or temperature > 0
        require(more, "teacher.ask.temperature", temperature, "above 0 where samples is more than 1")
        if self.backend == "local":
            self._check_local()
        if self.contrastive is not None:
            self._check_contrastive()

    def _check_contrastive(self) -> None:
        """Refuse what contrastive decoding, which is greedy and explains a given answer, would ignore."""
        known = self.backend in ("local", "replay")
        require(known, "teacher.ask.backend", self.backend, "local, where teacher.ask.contrastive is given")
        for name, wanted in (("temperature", 0), ("samples", 1), ("hint", False)):
            value = getattr(self, name)
            require(value == wanted, f"teacher.ask.{name}", value, f"{wanted} where teacher.ask.contrastive is given")

    def _check_local(self) -> None:
        """Refuse keys that only an endpoint takes, and null where only an endpoint has defaults."""
        require(not self.extra_body, "teacher.ask.extra_body", self.extra_body, "left out with backend: local")
        for name in ("temperature", "top_p", "max_tokens", "seed"):
            value = getattr(self, name)
            require(value is not None, f"teacher.ask.{name}", value, "given with backend: local")


@section("teacher.logprobs")
class LogprobsConfig:
    """A model whose probabilities of the rationales are stored, for methods that compare the student's with them.

    It reads every rationale once and writes nothing. It need not be the model that wrote the rationales.
    """

    model: str
    """A Hub name, a folder, or smollm2-135m. Another tokenizer than the student's leaves some tokens without its
    probabilities; docs/teacher.md says which."""
    top_k: Annotated[int, Field(ge=1, le=64)] = 64
    """How many of the most probable tokens are stored for each token that the student writes, 6 bytes each."""
    precision: Literal["fp32", "bf16"] | None = None
    """Of the model; null: the recipe's `precision`."""

    def __post_init__(self) -> None:
        require(bool(self.model.strip()), "teacher.logprobs.model", self.model, "the name of a model")


@section("teacher")
class TeacherConfig:
    """Where the rationales come from, and which of them are trained on."""

    rationales: str | None = None
    """A recorded rationale file, or the name of a teacher beside a built-in set (gemini-1.5-flash);
    null: the rationales of the training file itself."""
    ask: AskConfig | None = None
    """A teacher that explains the training questions; null: no teacher is asked."""
    logprobs: LogprobsConfig | None = None
    """A model whose probabilities of the rationales are stored; null: those that `teacher.ask.logprobs` keeps. Read by
    methods that compare the student's probabilities with a teacher's, and by no others."""
    filter: Literal["gold", "stated", "none", "vote"] = "gold"
    """gold: train only on rationales that reach the gold answer. The answer is `teacher_answer`, or what the rationale
    states, or the result of its last sentence. A rationale whose answer cannot be read is dropped. stated: also train
    on rationales whose answer cannot be read. vote: train on rationales that reach the most frequent answer of their
    question; the student learns that answer, whatever the gold answer is. none: train on all."""
    max_similarity: Share | None = 0.9
    """Drop a rationale that shares more than this of its word trigrams (Jaccard) with an earlier one of its question;
    null: keep all."""
    check_equations: bool = False
    """Drop rationales that contain a wrong equation between plain numbers, such as 3 + 4 = 8."""
    per_question: Count | None = None
    """Keep at most this many rationales of a question, the most diverse ones (MCC-KD); null: all."""
    strip_closing: bool = False
    """Remove a last sentence that states the answer from recorded rationales too. It is always removed from a
    teacher's answers."""

    def __post_init__(self) -> None:
        both = self.ask is not None and self.rationales is not None
        require(not both, "teacher.rationales", self.rationales, "left out where teacher.ask names a teacher")

    def check_probabilities(self) -> None:
        """Raise ConfigError where no teacher's probabilities would be there for a method that needs them."""
        told = self.ask is not None and self.ask.logprobs is not None
        wanted = "a model, or teacher.ask.logprobs a number, since the method needs a teacher's probabilities"
        require(told or self.logprobs is not None, "teacher.logprobs", None, wanted)

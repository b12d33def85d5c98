r"""A worked solution taken apart: its thought, its reasoning, and the gold answer that it states.

The answer follows the last `####`, stands in the last `\boxed{}` or in `<answer>` tags, or is stated in words
(`kpod.data.answers.extract_answer`); a text of at most three words is an answer and nothing else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kpod.data.answers import extract_answer, normalise_answer
from kpod.data.cells import UnusableError
from kpod.data.options import Choices
from kpod.data.statements import LONGEST_STATEMENT
from kpod.data.thoughts import part_thoughts

MOST_WORDS_OF_AN_ANSWER = 3
MOST_WORDS_OF_A_STATEMENT = 12
_BOXES_TRIED = 20

_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox) {0,3}\{")
_BRACE = re.compile(r"(?<!\\)[{}]")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Solution:
    """What a worked solution says.

    Attributes:
        rationale: The reasoning; empty where the text is nothing but an answer.
        answer: The answer that it states, as written there where a mark tells its extent; None where it states none.
        set_aside: Whether a thought is left aside.
        states_it: Whether the rationale still holds the words or the box that state the answer.
    """

    rationale: str
    answer: str | None
    set_aside: bool = False
    states_it: bool = False


def read_solution(text: str, choices: Choices | None = None, thoughts: str = "apart") -> Solution:
    r"""Take a solution apart.

    Args:
        text: What somebody wrote.
        choices: The question's options; None unless multiple choice.
        thoughts: `rationale`: what stands in <think> or thought tags is the rationale; `apart`: what stands around
            it is, unless that is the answer alone; `whole`: all of it is, tags included.

    Raises:
        UnusableError: If a thought has no end, or its tags do not pair up.

    Example:
        >>> read_solution("Half of 48 is <<48/2=24>>24.\n#### 24")
        Solution(rationale='Half of 48 is 24.', answer='24', set_aside=False, states_it=False)
        >>> read_solution(r"<think>Half of 48.</think>So it is $\boxed{24}$.").rationale
        'Half of 48.'
    """
    thought, said = without_thought(text)
    tagged = _tagged(text.rpartition(thought)[2] if thought else text)
    said = _ANSWER_TAG.sub("", said).strip()
    rationale, answer = _told_apart(said, choices)
    states_it = answer is not None and rationale == said
    if tagged is not None:
        answer = _told_apart(tagged, choices)[1] or tagged
    if not thought:
        return Solution(rationale, answer, states_it=states_it)
    if thoughts == "whole":
        return Solution(text.strip(), answer, states_it=answer is not None)
    if thoughts == "rationale" or not said or _is_statement(rationale, answer):
        return Solution(thought, answer)
    return Solution(rationale, answer, set_aside=True, states_it=states_it)


def behind_hashes(text: str) -> tuple[str, str] | None:
    """The text before the last `####` and the single line behind it; None where there is no such mark.

    Example:
        >>> behind_hashes("6 + 2 = 8. #### 8"), behind_hashes("8"), behind_hashes("#### Step 1: 6 + 2")
        (('6 + 2 = 8.', '8'), None, ('', 'Step 1: 6 + 2'))
    """
    before, mark, behind = text.rpartition("####")
    behind = behind.strip()
    if not mark or before.endswith("#") or not behind or "\n" in behind or len(behind) > LONGEST_STATEMENT:
        return None
    return before.strip(), plain_number(behind)


def plain_number(text: str) -> str:
    """A gold number without thousands separators and trailing zeros; other texts as they are, stripped.

    Example:
        >>> [plain_number(text) for text in (" 1,250.50", "145.0", "100", "12,5", "3.50 km")]
        ['1250.5', '145', '100', '12,5', '3.50 km']
    """
    text = text.strip()
    if not _PLAIN_NUMBER.fullmatch(text):
        return text
    number = text.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def without_marks(text: str) -> str:
    """A GSM8K solution without its calculator marks.

    Example:
        >>> without_marks("48/2 = <<48/2=24>>24 clips")
        '48/2 = 24 clips'
    """
    return "\n".join("".join(_unmarked(line)) for line in text.split("\n"))


def without_thought(text: str) -> tuple[str, str]:
    """What stands in the thought tags of a text, and the text around them.

    Raises:
        UnusableError: If a thought has no end, or its tags do not pair up.

    Example:
        >>> without_thought("<think>6 * 7.</think>It is 42.")
        ('6 * 7.', 'It is 42.')
    """
    parted = part_thoughts(text)
    if not parted.is_clear:
        raise UnusableError("unclear thought", "has thought tags that do not pair up")
    if parted.thought and not parted.text.strip() and text.rstrip().endswith(parted.thought):
        raise UnusableError("unfinished thought", "has a thought without an end")
    return parted.thought, parted.text.strip()


def holds_thoughts(text: str) -> bool:
    """Whether a text holds tags of thoughts, or of the solution after them.

    Example:
        >>> holds_thoughts("<think>6 * 7.</think>It is 42."), holds_thoughts("6 < 7 and 7 > 6")
        (True, False)
    """
    parted = part_thoughts(text)
    return parted.text != text or not parted.is_clear


def _unmarked(line: str) -> Iterator[str]:
    position = 0
    while (start := line.find("<<", position)) >= 0 and (stop := line.find(">>", start + 2)) >= 0:
        yield line[position:start]
        position = stop + 2
    yield line[position:]


def _told_apart(text: str, choices: Choices | None) -> tuple[str, str | None]:
    """The reasoning of a text without thoughts, and its answer."""
    marked = behind_hashes(text)
    if marked:
        return without_marks(marked[0]), _as_option(extract_answer(marked[1], choices) or marked[1], choices)
    boxed = _last_box(text)
    if boxed:
        content, behind = boxed
        return text, extract_answer(behind, choices) or _as_option(content, choices)
    stated = extract_answer(text, choices)
    if stated is not None:
        return text, stated
    bare = text.rstrip(".。")
    if bare and len(bare.split()) <= MOST_WORDS_OF_AN_ANSWER and len(bare) <= LONGEST_STATEMENT and "=" not in bare:
        return "", _as_option(bare, choices)
    return text, None


def _as_option(answer: str, choices: Choices | None) -> str | None:
    """The answer; with options the letter that it names, or None."""
    if choices is None:
        return answer
    letter = normalise_answer(answer, choices)
    return letter if letter in choices else None


def _tagged(text: str) -> str | None:
    """What the last <answer> tags hold."""
    tags = list(_ANSWER_TAG.finditer(text))[-2:]
    if len(tags) < 2 or tags[0].group().startswith("</") or not tags[1].group().startswith("</"):
        return None
    return text[tags[0].end() : tags[1].start()].strip() or None


def _last_box(text: str) -> tuple[str, str] | None:
    r"""What the last closed `\boxed{}` holds, and the text behind it."""
    for opening in list(_BOX.finditer(text))[: -_BOXES_TRIED - 1 : -1]:
        depth = 1
        for brace in _BRACE.finditer(text, opening.end()):
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                content = text[opening.end() : brace.start()].strip()
                return (content, text[brace.end() :]) if content else None
    return None


def _is_statement(text: str, answer: str | None) -> bool:
    """Whether a text states its answer and nothing else."""
    words = len(text.split())
    return answer is not None and words <= MOST_WORDS_OF_A_STATEMENT and "=" not in text

"""Set a model's thoughts apart from what it says, whatever tags its template uses."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kpod.records import Span

_THINK = r"(?:[a-z]{1,12}:)?(?:think(?:ing)?|thoughts?)|antthinking"
_OTHERS = "reasoning|reflection|scratchpad|inner_monologue|reason"
_TAG = re.compile(
    rf"<(?P<close>/)?(?:(?P<think>{_THINK})|(?P<name>{_OTHERS}))\s?>"
    r"|\[(?P<close2>/)?(?P<square>(?-i:THINK|THINKING|THOUGHT|REASONING))\]"
    r"|◁(?P<close3>/)?(?P<kimi>think)▷"
    r"|<\|(?:(?:begin_of|start_of|start|begin)|(?P<close4>end_of|end))_(?P<token>thought|think|thinking|reasoning)\|>"
    r"|(?:<unused94>|<\|channel>)(?P<gemma>thought)\b|(?P<close5><unused95>|<channel\|>)(?P<gemma2>)"
    r"|(?P<frame><\|(?:begin|end|start)_(?:of_)?(?:solution|response)\|>)",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_QUOTES = frozenset(['""', "''", "“”", "‘’", "«»", "``", "「」", "„“"])
_MENTION_BEFORE, _MENTION_AFTER = re.compile(r"[a-z]\s\Z"), re.compile(r"\s[a-z]")
_WRAPPED = re.compile(r"\s*<(response|answer|output)>(?P<inside>.*)</\1>\s*\Z", re.DOTALL)
_WORD = re.compile(r"\w")

_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*\w*\s*)?<\|channel\|>\s*(?P<name>\w+)[^<\n]*(?:<\|constrain\|>[^<\n]*)?<\|message\|>"
)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call)\|>|(?=<\|start\|>|<\|channel\|>)|\Z")
_BARE_CHANNELS = re.compile(r"analysis(?=[A-Z\s\"'(\d])")
_BARE_FINAL = "assistantfinal"
_GRANITE = re.compile(
    r"\s*Here(?: is|'s) my thought process:(?P<thought>.*?)\n\s*Here(?: is|'s) my response:", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Parted:
    """What a model thought and what it said.

    Attributes:
        thought: The thoughts, without their tags; empty where there are none.
        text: What is said before, between and after them; all that was written where it is unclear.
        spans: Where the characters of `text` stand in what was written, rising.
        is_clear: Whether every tag has its partner, so that nothing said was taken for a thought.
    """

    thought: str
    text: str
    spans: tuple[Span, ...]
    is_clear: bool = True

    @property
    def start(self) -> int | None:
        """Where the text starts in what was written if it is all that follows; None if a thought interrupts it."""
        return self.spans[0][0] if len(self.spans) == 1 else None


class _Tag(NamedTuple):
    start: int
    stop: int
    family: str
    closes: bool


def part_thoughts(written: str) -> Parted:
    """Set the thoughts in a text apart from the rest.

    It knows `<think>` and its kin, `[THINK]`, `◁think▷`, `<|begin_of_thought|>` (with the frame of a solution),
    harmony channels and more. A thought may be opened by the template alone, and be left open by a limit. A tag in
    quotation marks or code is a word like any other.

    Args:
        written: All that a model wrote; any string.

    Returns:
        Thought and text. Where tags do not pair up, `is_clear` is False and `text` is all that was written: do not
        train on it.

    Example:
        >>> part_thoughts("<think>4 * 5</think>5 * 4 = 2<think>sure</think>0 jars.").text
        '5 * 4 = 20 jars.'
        >>> part_thoughts("It is 20. </think> That is </think> all.").is_clear
        False
    """
    if "<|channel|>" in written:
        return _channels(written)
    if _BARE_CHANNELS.match(written) and _BARE_FINAL in written:
        return _bare_channels(written)
    if granite := _GRANITE.match(written):
        return _parted(written, [granite.span("thought")], [(0, granite.end())])
    tags, quoted = _tags(written)
    frames = [(tag.start, tag.stop) for tag in tags if tag.family == "frame"]
    blocks = _blocks(written, [tag for tag in tags if tag.family != "frame"], quoted)
    if blocks is None:
        return _unclear(written)
    inside = [(open_.stop, close.start) for open_, close in blocks]
    thoughts = [(open_.start, close.stop) for open_, close in blocks]
    starts = [start for start, _ in thoughts]
    ends = [0, *(stop for _, stop in thoughts)]
    outside = [frame for frame in frames if frame[0] >= ends[bisect_right(starts, frame[0])]]
    return _parted(written, inside, sorted([*thoughts, *outside]))


def _unclear(written: str) -> Parted:
    return Parted("", written, ((0, len(written)),), is_clear=False)


def _tags(written: str) -> tuple[list[_Tag], set[tuple[str, bool]]]:
    """The tags of a text that stand for themselves, and family and kind of those in quotation marks or code."""
    code = iter(_CODE.finditer(written))
    span = next(code, None)
    tags: list[_Tag] = []
    quoted: set[tuple[str, bool]] = set()
    for match in _TAG.finditer(written):
        while span and span.end() <= match.start():
            span = next(code, None)
        around = written[max(0, match.start() - 1) : match.start()] + written[match.end() : match.end() + 1]
        tag = _tag(match)
        if (span and span.start() < match.start()) or around in _QUOTES:
            quoted.add((tag.family, tag.closes))
        else:
            tags.append(tag)
    return tags, quoted


def _tag(match: re.Match[str]) -> _Tag:
    groups = ("think", "name", "square", "kimi", "token", "frame")
    family = next((group for group in groups if match[group]), "gemma")
    closes = any(match[group] for group in ("close", "close2", "close3", "close4", "close5"))
    return _Tag(*match.span(), match["name"].lower() if family == "name" else family, closes)


def _blocks(written: str, tags: Sequence[_Tag], quoted: set[tuple[str, bool]]) -> list[tuple[_Tag, _Tag]] | None:
    """The pairs of tags around thoughts; None where they do not pair up."""
    blocks: list[tuple[_Tag, _Tag]] = []
    nested = _nests(tags)
    opened, depth = None, 0
    for tag in tags:
        if opened and tag.family != opened.family:
            continue  # another's tags inside a thought
        if not tag.closes:
            opened, depth = opened or tag, depth + 1 if nested or not opened else depth
        elif opened:
            depth -= 1
            if not depth:
                blocks.append((opened, tag))
                opened = None
        elif blocks or _is_mentioned(written, tag):
            return None
        else:  # the template has opened it
            blocks.append((_Tag(0, 0, tag.family, closes=False), tag))
    if opened:
        if written[: opened.start].strip() or blocks or (opened.family, True) in quoted:
            return None
        end = len(written)  # a limit left it open
        blocks.append((opened, _Tag(end, end, opened.family, closes=True)))
    first = len(written) - len(written.lstrip())
    later = ((one.stop, other.start) for one, other in blocks if one.start > first)
    return blocks if all(_WORD.search(written, *span) for span in later) else None  # "write <think>...</think>"


def _nests(tags: Sequence[_Tag]) -> bool:
    """Whether every tag that opens has one that closes it."""
    depths: dict[str, int] = {}
    for tag in tags:
        depths[tag.family] = depths.get(tag.family, 0) + (-1 if tag.closes else 1)
        if depths[tag.family] < 0:
            return False
    return not any(depths.values())


def _is_mentioned(written: str, tag: _Tag) -> bool:
    """Whether a tag stands within a sentence, as in "the tag </think> ends a thought"."""
    before = written[max(0, tag.start - 2) : tag.start]
    return bool(_MENTION_BEFORE.search(before) and _MENTION_AFTER.match(written, tag.stop))


def _channels(written: str) -> Parted:
    """Harmony: a message a channel, of which `final` is for the reader."""
    inside: list[Span] = []
    removed: list[Span] = []
    reached = 0
    while match := _CHANNEL.search(written, reached):
        end = _CHANNEL_END.search(written, match.end())
        stop, after = end.span() if end else (len(written), len(written))
        if written[reached : match.start()].strip():
            return _unclear(written)
        if match["name"] == "final":
            removed += [(reached, match.end()), (stop, after)]
        else:
            inside.append((match.end(), stop))
            removed.append((reached, after))
        reached = after
    is_whole = not written[reached:].strip() and "<|channel|>" not in written[reached:]
    return _parted(written, inside, [*removed, (reached, len(written))]) if is_whole else _unclear(written)


def _bare_channels(written: str) -> Parted:
    """Harmony without its special tokens, as some servers decode it."""
    start = written.index(_BARE_FINAL)
    stop = start + len(_BARE_FINAL)
    if _BARE_FINAL in written[stop:]:
        return _unclear(written)
    return _parted(written, [(len("analysis"), start)], [(0, stop)])


def _parted(written: str, inside: Sequence[Span], removed: Sequence[Span]) -> Parted:
    """The record, of where the thoughts are and of all that is cut out with them."""
    thought = "\n\n".join(filter(None, (written[start:stop].strip() for start, stop in inside)))
    spans = _rest(written, removed)
    wrapped = _WRAPPED.fullmatch(written, *spans[0]) if removed and len(spans) == 1 else None
    if wrapped:
        spans = [wrapped.span("inside")]
    return Parted(thought, "".join(written[start:stop] for start, stop in spans), tuple(spans))


def _rest(written: str, removed: Sequence[Span]) -> list[Span]:
    """What is left between removed spans: no spaces before the first word, and none doubled around a thought."""
    spans: list[Span] = []
    reached = 0
    for start, stop in [*removed, (len(written), len(written))]:
        if reached and not spans:
            reached = start - len(written[reached:start].lstrip()) if reached < start else reached
        elif spans and written[spans[-1][1] - 1].isspace() and reached < start:
            reached = start - len(written[reached:start].lstrip(" \t"))
        if reached < start and (spans or written[reached:start].strip() or not removed):
            spans.append((reached, start))
        reached = max(reached, stop)
    return spans or [(len(written), len(written))]

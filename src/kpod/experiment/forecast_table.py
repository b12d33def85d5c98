"""A forecast as text: how many rows of each source are read, kept and dropped, and the key that would change it."""

from kpod.experiment.forecast import Forecast, SourceUse, Unused
from kpod.records.shown import percent, visible

LONGEST_ID = 24
LONGEST_NAME = 80
LONGEST_NOTE = 500


def forecast_text(forecast: Forecast) -> str:
    """The table for a terminal, without a line break at its end.

    Example:
        >>> wrong = Unused("wrong answer", 41, ("g17", "g203", "g344"), "teacher.filter: gold")
        >>> print(forecast_text(Forecast((SourceUse("train", "mine.jsonl", 10_000, (wrong,)),))))
        train mine.jsonl: 10,000 read, 9,959 kept (99.6 %)
          41  0.4 %  wrong answer  g17, g203, g344  teacher.filter: gold
    """
    return "\n".join(line for source in forecast.sources for line in _lines(source))


def on_one_line(text: str, longest: int) -> str:
    r"""A text with its hidden characters written out, in one line of so many characters at most.

    Example:
        >>> on_one_line("a b \x1b[2Jc", 40), on_one_line("a\tvery long id", 8)
        ('a b ⟨U+001B⟩[2Jc', 'a very …')
    """
    shown = " ".join(visible(text).split())
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _lines(source: SourceUse) -> list[str]:
    lines = [_heading(source)]
    rows = [_cells(item, source.num_read) for item in source.dropped]
    if source.unread is not None:
        rows.append(_cells(source.unread, source.num_questions))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
    for number, share, reason, ids, key in rows:
        cells = (number.rjust(widths[0]), share.rjust(widths[1]), reason.ljust(widths[2]), ids.ljust(widths[3]), key)
        lines.append("  " + "  ".join(cells))
    return lines + [f"  note: {on_one_line(note, LONGEST_NOTE)}" for note in source.notes]


def _heading(source: SourceUse) -> str:
    name = f"{source.role} {on_one_line(source.name, LONGEST_NAME)}"
    if source.fault:
        return f"{name}: cannot be read"
    kept = f", {source.num_kept:,} kept ({percent(source.num_kept / source.num_read)})" if source.num_read else ""
    left = f", {source.num_unasked:,} answers not asked for yet" if source.num_unasked else ""
    return f"{name}: {source.num_read:,} read{kept}{left}"


def _cells(item: Unused, of: int) -> tuple[str, str, str, str, str]:
    ids = ", ".join(on_one_line(id_, LONGEST_ID) for id_ in item.ids)
    key = on_one_line(item.key, LONGEST_NAME * 2)
    return f"{item.number:,}", percent(item.number / max(of, 1)), on_one_line(item.reason, LONGEST_NAME), ids, key

"""Which rationales a filter keeps, and the reasons for the others."""

import pytest

from kpod.config import TeacherConfig
from kpod.records import Dropped, Question, Rationale
from kpod.teacher.filters import filter_rationales

QUESTION = Question("q", "How many?", "1200")
CHOICE = Question("c", "Which?", "B", {"A": "red", "B": "blue"})


def explained(id_: str, reached: str | None, text: str = "Hm.", question=QUESTION, source: str = "gpt") -> Rationale:
    return Rationale(id_, question, text, source, reached)


@pytest.mark.parametrize(
    ("rationale", "reason"),
    [
        (explained("same", "1200"), None),
        (explained("same number", "1,200.0"), None),
        (explained("other", "1201"), "wrong answer"),
        (explained("letter", "B", question=CHOICE), None),
        (explained("other letter", "A", question=CHOICE), "wrong answer"),
        (explained("read off", None, "Then 1000 + 200 = 1200. The answer is 1200."), None),
        (explained("read off, wrong", None, "Then 1000 + 20 = 1020. The answer is 1020."), "wrong answer"),
        (explained("nothing to read", None, "Nobody can say."), "unknown answer"),
        (explained("human", None, "Nobody can say.", source="human"), None),
        (explained("made", None, "Nobody can say.", source="word_problems"), None),
        (explained("human, wrong", "7", source="human"), "wrong answer"),
    ],
    ids=lambda value: value.id if isinstance(value, Rationale) else "",
)
def test_gold_keeps_what_reaches_the_gold_answer(rationale: Rationale, reason: str | None):
    kept, dropped = filter_rationales([rationale], TeacherConfig(filter="gold", max_similarity=None))
    assert kept == ([] if reason else [rationale])
    assert dropped == ([Dropped(rationale.id, reason)] if reason else [])


def test_none_keeps_everything():
    rationales = [explained("a", "7"), explained("b", None, "Nobody can say.")]
    assert filter_rationales(rationales, TeacherConfig(filter="none", max_similarity=None)) == (rationales, [])


def test_the_order_is_kept():
    rationales = [explained(str(i), answer) for i, answer in enumerate(["1200", "7", "1200", None, "1200"])]
    kept, dropped = filter_rationales(rationales, TeacherConfig(filter="gold", max_similarity=None))
    assert [rationale.id for rationale in kept] == ["0", "2", "4"]
    assert [item.id for item in dropped] == ["1", "3"]

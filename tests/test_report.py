import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpod.commands.pages.page import HeatMap, Report, render_html, to_json
from kpod.commands.pages.tables import (
    WordType,
    WordTypeTable,
    accuracy_markdown,
    schedule_markdown,
    stage_rows,
    weighed_tokens,
    word_type_table,
)
from kpod.experiment.forecast import Forecast, SourceUse, Unused
from kpod.records import Question, Rationale, Schedule, StageRecord, TokenizedRationale
from kpod.records.errors import DataError
from kpod.records.outcomes import Accuracy, Prediction
from kpod.records.shown import visible
from tiny import int32

VOID = {"br", "col", "hr", "img", "input", "link", "meta"}

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</pre></style><script>alert(1)</script>",
    '" onmouseover="alert(1)" x=\'',
    "{{7*7}}{% for x in y %}",
    "&lt;b&gt; &amp;",
    "$x^2$ url(#a) --> ]]>",
)


class Page(HTMLParser):
    """The page as a browser sees it: tags must close in order; text and attributes are collected."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if self.open[-1:] in (["style"], ["script"]) else data

    @property
    def ids(self) -> list[str | None]:
        return [value for name, value in self.attributes if name == "id"]


def whole_report(text: str = "She has 3 apples.") -> Report:
    """A report with every part, `text` standing wherever a user's or a model's words can stand."""
    stages = (
        StageRecord(0, 30.0, 29.5, 40.0, 40.0, 2, 1),
        StageRecord(1, 65.4, 64.24, 50.0, 50.5, 3, 2),
        StageRecord(2, 100.0, 100.0, 61.0, 61.0, 1, 1),
    )
    given_steps = np.array([[2, 1, 5], [1, 1, 2], [0, 0, 0]], dtype=np.int32)
    return Report(
        title=text,
        method=text,
        recipe_yaml=f"name: {text}",
        provenance={"seed": "17", "student": text, text: text},
        notes=(text,),
        accuracies=(
            (
                Accuracy(text, 150, 5, 12, 31, (0.0143, 0.0757)),
                Accuracy(text, 150, 32, 1, 2, (0.1554, 0.2858), (33, 150)),
            ),
            (None, Accuracy("multiarith", 1520, 760, 0, 0, (0.475, 0.525))),
        ),
        num_read=1234,
        dropped={"wrong answer": 200, text: 34},
        forecast=Forecast(
            (
                SourceUse("train", text, 1234, (Unused("wrong answer", 200, (text,), text),), notes=(text,)),
                SourceUse("test", "t", 40, num_questions=40, unread=Unused(text, 10, (text,), "data.columns.answer")),
            )
        ),
        num_steps=(3, 2, 9),
        heatmaps=(HeatMap(text, text, ((text, 0.125, 1), (" is", 0.5, 1), ("\n\n", 0.25, 2), (" 7", 0.987, 2))),),
        word_types=WordTypeTable((WordType(text, 0.91, 4321),), (WordType("can", 0.08, 57),)),
        schedule=Schedule(("a", "b", "c"), given_steps, stages, 12.0, 0.31),
        loss_curve=((1, 2.5, 1), (2, 2.0, 1), (3, float("nan"), 2), (4, 1.5, 2)),
        predictions=(Prediction(text, text, text, text, False, False), Prediction("q2", "4", "4", "4", True, True)),
        questions={text: text},
    )


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(whole_report())


def unillustrated(text: str) -> Report:
    """The same without figures, which hold no text of the user's and take most of the time."""
    report = whole_report(text)
    return replace(report, num_steps=(), loss_curve=(), schedule=replace(report.schedule, stages=()))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_shown_and_never_becomes_markup(hostile):
    harmless, page = Page(render_html(unillustrated("plain"))), Page(render_html(unillustrated(hostile)))
    assert page.tags == harmless.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in harmless.attributes]
    assert page.text.count(hostile) == harmless.text.count("plain") >= 15


@settings(max_examples=8, deadline=None)
@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_no_text_changes_the_structure_of_the_page(text):
    report = Report(title="t", heatmaps=(HeatMap("r", text, ((text, 0.5, 1),)),), notes=(text,))
    plain = Report(title="t", heatmaps=(HeatMap("r", "q", (("a", 0.5, 1),)),), notes=("n",))
    page = render_html(report)
    assert Page(page).tags == Page(render_html(plain)).tags
    page.encode("utf-8")


def test_hidden_characters_are_written_out():
    page = render_html(unillustrated("a\u202eb\u2028c\u2066d\x1b[31m\ufeff\ud800"))
    assert not re.search("[\u202e\u2028\u2066\x1b\ufeff\ud800]", page)
    assert "a⟨U+202E⟩b⟨U+2028⟩c⟨U+2066⟩d⟨U+001B⟩[31m⟨U+FEFF⟩⟨U+D800⟩" in Page(page).text


@given(st.text())
def test_writing_out_is_idempotent_and_leaves_nothing_hidden(text):
    shown = visible(text)
    assert visible(shown) == shown
    shown.encode("utf-8")
    assert text == shown or "⟨U+" in shown


def test_line_breaks_tabs_and_joined_letters_stay():
    assert visible("a\n\tb\u200cc 👩\u200d🚀 مرحبا") == "a\n\tb\u200cc 👩\u200d🚀 مرحبا"


def test_the_page_stands_alone(html):
    """With nothing to search there is no script; `test_report_browser` tests the one that searches."""
    page = Page(html)
    assert "http-equiv" in dict(page.attributes)
    [policy] = [value or "" for _, value in page.attributes if str(value).startswith("default-src 'none'")]
    assert set(policy.split("; ")) >= {"style-src 'unsafe-inline'", "img-src data:", "form-action 'none'"}
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = [value for name, value in page.attributes if name in ("href", "src", "xlink:href", "action")]
    assert addresses
    assert all(value is not None and value.startswith("#") for value in addresses)
    assert "://" not in html
    assert "@import" not in html


def test_every_attribute_is_quoted_and_every_id_is_unique_and_found(html):
    tags = re.findall(r"<[a-z][^<>]*>", html)
    assert all(re.fullmatch(r'<[a-zA-Z0-9]+(\s+[\w:-]+="[^"]*")*\s*/?>', tag) for tag in tags)
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert {name[1:] for attribute, name in page.attributes if attribute.endswith("href") and name} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(page.ids)


def test_the_same_report_gives_the_same_bytes(html):
    assert html == render_html(whole_report())


def test_every_colour_of_a_figure_is_the_style_sheets(html):
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", html))
    assert used <= set(re.findall(r"--([a-z0-9-]+):", html))
    svg = "".join(re.findall(r'<svg role="img".*?</svg>', html, re.DOTALL))
    assert "var(--accent)" in svg
    assert not re.search(r":\s*#[0-9a-f]{3}", svg)


def test_the_head_line_tells_the_outcome(html):
    text = " ".join(Page(html).text.split())
    assert "3.3 % → 21.3 % of 150 questions of She has 3 apples." in text
    assert "95 % interval 15.5–28.6 % (before: 1.4–7.6 %)" in text.replace("\xa0", " ")


def test_numbers_shown_are_the_numbers_given(html):
    text = " ".join(Page(html).text.split())
    for numbers in (
        "before 3.3 % 1.4–7.6 % 5 / 150 – 8.0 % 20.7 %",
        "after 21.3 % 15.5–28.6 % 32 / 150 22.0 % 0.7 % 1.3 %",
        "+18.0 points",
        "multiarith after 50.0 % 47.5–52.5 % 760 / 1,520 – 0.0 % 0.0 %",
        "Read 1,234 dropped: wrong answer 200 dropped: She has 3 apples. 34 Kept 1,000",
        "train She has 3 apples.: read 1,234 dropped: wrong answer 200 16.2 % She has 3 apples. She has 3 apples.",
        "test t: read 40 She has 3 apples. 10 25.0 % She has 3 apples. data.columns.answer",
        "She has 3 apples.0.914,321",
        "can0.0857",
        "1 65.4 64.2 98.2 % 9.9e-03 2 2 10 0",
        "2100.0100.0 100.0 % 0 1 3 14 3",
    ):
        assert numbers.replace(" ", "") in text.replace(" ", "")


def test_whiskers_are_drawn_on_a_common_axis_up_to_the_next_tenth(html):
    assert "60 %</span>" in html
    assert 'x1="79.17%" x2="87.50%"' in html  # 47.5 and 52.5 of 60 %
    assert '<circle cx="83.33%"' in html


def test_a_token_shows_its_weight_and_a_step_its_number(html):
    assert (
        '<sup class="step">1</sup><span class="t" style="--w:0.12" title="weight 0.12">She has 3 apples.</span>' in html
    )
    assert ' <span class="t" style="--w:0.50" title="weight 0.50">is</span>' in html
    assert '<sup class="step">2</sup><span class="t" style="--w:0.25" title="weight 0.25">↵↵</span>\n' in html
    assert ' <span class="t" style="--w:0.99" title="weight 0.99">7</span>' in html
    assert html.count('<sup class="step">') == 2


def test_bars_stack_every_question_at_its_number_of_trained_steps(html):
    figure = html[html.index('aria-label="How many questions train how many') :]
    figure = figure[: figure.index("</svg>")]
    # Trained steps n - c: (1, 1, 4), (2, 1, 7), (3, 2, 9), the last bar shown as 7+.
    for shown in ("1", "2", "3", "4", "7+"):
        assert f">{shown}</text>" in figure
    assert ">5</text>" not in figure
    # One swatch in the legend, and one bar per stage for each shown number.
    assert {index: figure.count(f"var(--step-{index})") for index in range(8)} == {
        0: 0, 1: 4, 2: 4, 3: 4, 4: 4, 5: 0, 6: 0, 7: 4,
    }  # fmt: skip


def test_only_the_first_five_predictions_are_shown():
    predictions = tuple(Prediction(f"q{index}", f"text {index}", None, "4", False, True) for index in range(7))
    text = Page(render_html(Report(title="t", predictions=predictions))).text
    assert "text 4" in text
    assert "text 5" not in text
    assert text.count("no answer found") == 5


def test_parts_that_a_method_lacks_are_said_to_be_missing():
    text = Page(render_html(Report(title="bare"))).text
    for missing in (
        "No accuracy was measured",
        "No rationales",
        "No token weights",
        "has no schedule",
        "No training",
        "No predictions",
    ):
        assert missing in text


def test_the_rows_of_a_schedule_by_hand():
    report = whole_report()
    rows = stage_rows(report.schedule, report.num_steps)
    assert [row[2:] for row in rows] == [(3, 6, 0), (2, 10, 0), (3, 14, 3)]
    assert [row.record for row in rows] == list(report.schedule.stages)
    table = schedule_markdown(report.schedule, report.num_steps)
    assert "| 1 | 65.400 | 64.240 | 9.9e-03 | 2 | 10 | 0 | 2 |" in table
    assert "every rationale is trained whole" in schedule_markdown(Schedule(("a",), np.zeros((2, 1), dtype=int)), [3])


def test_a_schedule_without_selections_draws_no_budget():
    whole = Schedule(("a", "b"), np.zeros((1, 2), dtype=np.int32))
    html = render_html(Report(title="scotd", schedule=whole, num_steps=(3, 2)))
    assert "budget D(t)" not in html
    assert "How many questions train how many steps" in html
    assert "trained whole from the first epoch" in html


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropped": {"wrong answer": 1300}}, "1300 of 1234 rationales dropped"),
        ({"num_steps": (3, 2)}, "2 step counts for 3 rationales"),
        ({"num_steps": (3, 2, 4)}, "'c' has 4 steps, but the schedule gives 5"),
        (
            {"accuracies": ((Accuracy("a", 1, 0, 0, 0, (0.0, 0.8)), Accuracy("b", 1, 1, 0, 0, (0.2, 1.0))),)},
            "compares 'a' with 'b'",
        ),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        replace(whole_report(), **change)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_out_of_range_is_refused_with_its_token(weight):
    with pytest.raises(DataError, match=r"'r1': token ' two' has weight"):
        HeatMap("r1", "q", ((" two", weight, 1),))


def test_json_holds_the_tables_and_nothing_but_plain_types():
    tables = json.loads(json.dumps(to_json(whole_report())))
    assert tables["accuracy"][0]["after"]["value"] == 32 / 150
    assert tables["accuracy"][0]["after"]["interval"] == [0.1554, 0.2858]
    assert tables["accuracy"][1]["before"] is None
    assert tables["rationales"] == {
        "read": 1234,
        "kept": 1000,
        "dropped": {"wrong answer": 200, "She has 3 apples.": 34},
    }
    used, asked = tables["sources"]
    assert (used["read"], used["kept"], used["dropped"][0]["share"]) == (1234, 1034, 200 / 1234)
    assert (asked["dropped"], asked["gold_not_read_back"]["share"]) == ([], 0.25)
    assert tables["word_types"]["lowest"] == [{"word": "can", "weight": 0.08, "num_occurrences": 57}]
    assert [stage["budget"] for stage in tables["stages"]] == [30.0, 65.4, 100.0]
    assert tables["stages"][1]["gap"] == pytest.approx(0.5 / 50.5)
    assert to_json(Report(title="bare"))["stages"] == []


def test_markdown_table():
    assert accuracy_markdown(whole_report("svamp").accuracies).splitlines()[2:] == [
        "| svamp | 3.3 % | 21.3 % | 15.5–28.6 % | 32 / 150 | 22.0 % | 0.7 % | 1.3 % |",
        "| multiarith | – | 50.0 % | 47.5–52.5 % | 760 / 1520 | – | 0.0 % | 0.0 % |",
    ]


def test_a_name_cannot_break_the_markdown_table():
    table = accuracy_markdown([(None, Accuracy("a|b\nc\x1b[2J", 1, 1, 0, 0, (0.2, 1.0)))])
    assert table.splitlines()[2].startswith("| a\\|b c⟨U+001B⟩[2J | – |")
    assert len(table.splitlines()) == 3


def rationale(text: str) -> Rationale:
    return Rationale("r1", Question("q1", "How many?", "7"), text)


def test_tokens_tile_the_text_and_count_steps_from_one():
    text = " 3 + 4 = 7.\nSo 7 "
    spans = ((0, 2), (3, 4), (5, 6), (7, 8), (9, 10), (10, 11), (11, 14), (15, 16))
    tokens = TokenizedRationale("r1", int32(range(12)), (2, 10, 11, 12, 12), (6, 8), int32(spans))
    views = weighed_tokens(rationale(text), tokens, np.linspace(0, 0.875, 8, dtype=np.float32))
    assert [view[0] for view in views] == [" 3", " +", " 4", " =", " 7", ".", "\nSo", " 7 "]
    assert [view[1] for view in views] == [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]
    assert [view[2] for view in views] == [1] * 6 + [2] * 2


def test_of_tokens_that_share_a_character_the_first_shows_it():
    tokens = TokenizedRationale("r1", int32(range(6)), (1, 4, 4, 5, 6), (3,), int32([(0, 1), (0, 1), (1, 2)]))
    views = weighed_tokens(rationale("🍎!"), tokens, np.full(3, 0.5, dtype=np.float32))
    assert [view[0] for view in views] == ["🍎", "", "!"]
    assert Page(render_html(Report(title="t", heatmaps=(HeatMap("r1", "q", views),)))).text.count("🍎") == 1


def test_weights_must_be_one_per_token():
    tokens = TokenizedRationale("r1", int32([0, 1, 2]), (1, 2, 2, 3, 3), (1,), int32([(0, 1)]))
    with pytest.raises(DataError, match="2 weights for 1 tokens"):
        weighed_tokens(rationale("a"), tokens, np.zeros(2, dtype=np.float32))


def test_word_types_join_tokens_fold_case_and_count_digit_tokens_apart():
    tokens = [
        ("To", 0.25, 1),
        ("tal", 0.75, 1),
        (" 4", 1.0, 1),
        ("2", 0.5, 1),
        (" +", 0.5, 1),
        (" total", 1.0, 1),
        (".", 0.0, 1),
    ]
    table = word_type_table([tokens, tokens[:2]], min_count=1)
    assert table.highest == (("4", 1.0, 1), ("total", 2 / 3, 3), ("+", 0.5, 1), ("2", 0.5, 1), (".", 0.0, 1))
    assert table.lowest == ()
    assert word_type_table([tokens, tokens[:2]], min_count=2).highest == (("total", 2 / 3, 3),)


def test_apostrophes_stay_inside_words_and_signs_stand_alone():
    tokens = [
        ("Can", 0.2, 1),
        ("'t", 0.4, 1),
        (" pay", 0.5, 1),
        (" $", 0.6, 1),
        ("5", 0.7, 1),
        ("x", 0.8, 1),
        ("=", 0.9, 1),
    ]
    words = {word: round(weight, 6) for word, weight, _ in word_type_table([tokens], min_count=1).highest}
    assert words == {"can't": 0.3, "pay": 0.5, "$": 0.6, "5": 0.7, "x": 0.8, "=": 0.9}


def test_no_word_type_is_among_the_highest_and_the_lowest():
    tokens = [(f" {letter}", index / 10, 1) for index, letter in enumerate("abcde")]
    table = word_type_table([tokens], min_count=1, num_shown=3)
    assert [word.word for word in table.highest] == ["e", "d", "c"]
    assert [word.word for word in table.lowest] == ["a", "b"]
    assert word_type_table([]) == ((), ())


@given(st.lists(st.tuples(st.text("ab1 .\n", max_size=4), st.floats(0, 1), st.just(1)), max_size=12))
def test_every_visible_character_belongs_to_one_word(tokens):
    table = word_type_table([tokens], min_count=1, num_shown=1000)
    text = "".join(text for text, _, _ in tokens)
    assert sum(len(word) * count for word, _, count in table.highest) == len(re.sub(r"\s", "", text))
    assert all(0 <= weight <= 1 for _, weight, _ in table.highest)


def test_importing_the_report_loads_neither_torch_nor_matplotlib():
    heavy = "{'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    code = f"import sys; import kpod.commands.pages.page, kpod.commands.pages.tables; assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

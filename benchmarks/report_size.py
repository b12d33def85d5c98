"""How large a report becomes: GSM8K's 1319 test questions answered twice, and a teacher's rationales with weights.

    KPOD_DATA=FOLDER python benchmarks/report_size.py OUT.html [RATIONALES]

The answers are a teacher's rationales of other questions, so they are as long and as varied as a student's; weights,
difficulties and stages are random, which compresses worst. `report_in_browser.cjs` then says how fast the page opens.
"""

import random
import re
import sys
import time
from pathlib import Path

from kpod import DataConfig, TeacherConfig
from kpod.commands.pages.browser import Answered, Browsed, Explained, HeatMap
from kpod.commands.pages.page import Report, render_html
from kpod.data.datasets import load_questions, load_rationales
from kpod.evaluation.accuracy import judge
from kpod.records import Rationale

TOKEN = re.compile(r"\s?\w{1,5}|\s?[^\w\s]|\s")


def heat_map(rationale: Rationale, rng: random.Random) -> HeatMap:
    """A rationale whose lines are its steps, with weights of no meaning."""
    tokens, step, begins = [], 0, True
    for text in TOKEN.findall(rationale.text):
        step += begins
        tokens.append((text, round(rng.betavariate(0.7, 0.7), 4), step))
        begins = "\n" in text or text.strip() == "."
    return HeatMap(
        rationale.id,
        rationale.question.question,
        tuple(tokens),
        rationale.question.answer,
        tuple(rng.uniform(0.1, 3) for _ in range(step)),
        tuple(sorted((rng.randint(1, 10) for _ in range(step)), reverse=True)),
    )


def main() -> None:
    out, number = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    rng, data = random.Random(0), DataConfig(train="gsm8k:train.gemini-1.5-flash")
    rationales = load_rationales(data, TeacherConfig()).rationales[:number]
    questions = [one for split in ("test", "validation") for one in load_questions(f"gsm8k:{split}", data)]
    said = [f"{one.text} Therefore, the answer is {one.question.answer}" for one in rationales]
    answers = tuple(
        Answered("gsm8k", one.id, one.question, tuple(judge(one, rng.choice(said), True) for _ in range(2)))
        for one in questions
    )
    maps = [heat_map(one, rng) for one in rationales]
    browsed = Browsed(("Before", "After"), ("gsm8k",), answers, tuple(Explained(one.id, (one,)) for one in maps))
    start = time.perf_counter()
    page = render_html(Report("gsm8k", heatmaps=tuple(maps[:12]), browsed=browsed))
    seconds = time.perf_counter() - start
    out.write_text(page, encoding="utf-8")
    sizes = {kind: sum(map(len, browsed.packed(kind))) / 1e6 for kind in ("question", "rationale")}
    tokens = sum(len(one.tokens) for one in maps)
    print(f"{len(answers)} questions: {sizes['question']:.2f} MB")
    print(f"{len(maps)} rationales of {tokens} tokens: {sizes['rationale']:.2f} MB")
    print(f"page: {len(page.encode()) / 1e6:.2f} MB, rendered in {seconds:.1f} s")


if __name__ == "__main__":
    main()

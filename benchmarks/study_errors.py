"""What the first study's students get wrong on word problems, and how far its seeds can be trusted on ASDiv.

    tar xJf benchmarks/study-runs.tar.xz
    python benchmarks/study_errors.py runs

Of the wrong answers, how many hold an equation that is false (`kpod.teacher.equations`): a slip of arithmetic. Of all
equations `a op b = c`, how many are false where `a op b` stands in a training rationale, and where it does not. Then
the spread over seeds of ASDiv's difference, beside the least that drawing its answers again would bring.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from kpod.data.word_problems import make_word_problems
from kpod.teacher.equations import wrong_equations

METHODS = ("scotd", "kpod", "kpod-wo-sig", "kpod-wo-prog")
NUMBER = r"(\d+(?:\.\d+)?)"
EQUATION = re.compile(rf"{NUMBER} ([-+*/x×÷]) {NUMBER} = {NUMBER}")
TRAINED = 300
SIGNS = {"x": "*", "×": "*", "÷": "/"}


def facts(text: str) -> Iterator[tuple[str, str, str, bool]]:
    """Each equation of two operands: them, the operator, and whether it holds."""
    for one, sign, other, said in EQUATION.findall(text):
        sign, a, b, c = SIGNS.get(sign, sign), *map(Fraction, (one, other, said))
        holds = {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}[sign]
        yield one, sign, other, holds


def predictions(runs: Path, grid: str, method: str, test: str) -> Iterator[list[dict[str, object]]]:
    """The judged answers of a method, seed by seed, in the order of the ids."""
    for file in sorted((runs / grid).glob(f"{method}-seed*/evaluation/after/{test}*/predictions.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        yield sorted(rows, key=lambda row: row["id"])


def slips(runs: Path) -> Counter[str]:
    """Counts over the students of METHODS on the test questions of the word problems."""
    known = {(a, sign, b) for r in make_word_problems("train")[:TRAINED] for a, sign, b, _ in facts(r.text)}
    known |= {(b, sign, a) for a, sign, b in known if sign in "+*"}
    found: Counter[str] = Counter()
    for rows in (rows for method in METHODS for rows in predictions(runs, "study-compare", method, "word_problems")):
        for row in rows:
            judged = "right" if row["correct"] else "wrong"
            found[judged] += 1
            found[f"{judged} with slip"] += bool(wrong_equations(str(row["text"])))
            for a, sign, b, holds in facts(str(row["text"])):
                kind = "known" if (a, sign, b) in known else "new"
                found[kind] += 1
                found[f"{kind} false"] += not holds
    return found


def spreads(runs: Path) -> tuple[float, float]:
    """S.d. over seeds of `kpod` less `scotd` on ASDiv, and the least that chance brings, both in points.

    Under one seed the difference is a mean over questions of -1, 0 and 1. Were students of other seeds to differ in no
    more than which of these each question falls on, its s.d. would be the standard error of that mean.
    """
    one, other = (
        np.array(
            [[bool(row["correct"]) for row in rows] for rows in predictions(runs, "asdiv-compare", method, "asdiv")]
        )
        for method in ("kpod", "scotd")
    )
    differences = one.astype(float) - other
    floor = np.sqrt(np.mean(differences.var(axis=1) / differences.shape[1]))
    return 100 * float(differences.mean(axis=1).std(ddof=1)), 100 * float(floor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the unpacked runs")
    runs = parser.parse_args().runs
    found = slips(runs)
    for of, part in (
        ("wrong", "wrong with slip"),
        ("right", "right with slip"),
        ("new", "new false"),
        ("known", "known false"),
    ):
        print(f"{part}: {found[part]} of {found[of]} ({100 * found[part] / found[of]:.1f} %)")
    seen, floor = spreads(runs)
    print(f"ASDiv, kpod less scotd: s.d. over seeds {seen:.1f} points, at least {floor:.1f} by chance")


if __name__ == "__main__":
    main()

"""A whole run in another language: seven Chinese rationales in a plain file, and a Chinese closing."""

import json
import logging
from pathlib import Path

import pytest
import yaml

from kpod.commands.command_line import main
from kpod.experiment import artifacts
from tiny_runs import BRIEF_WEIGHTING, write_tiny_data

CLOSING = "所以，答案是{answer}。"
ROWS = [
    ("小明有 3 袋苹果，每袋 4 个。他有几个苹果？", "每袋 4 个，一共 3 袋。3 * 4 = 12。", "12"),
    ("小红有 15 元，花了 6 元。还剩多少？", "小红原来有 15 元。15 - 6 = 9。还剩 9 元。", "9"),
    ("一本书有 80 页，读了一半。读了几页？", "一半就是除以 2。80 / 2 = 40。答案是 40。", "40"),
    ("班里有 18 个男生和 17 个女生。一共几人？", "男生 18 人！女生 17 人！18 + 17 = 35。所以，答案是 35 人。", "35 人"),
    ("每天跑 2 公里，跑一周。共跑多少公里？", "一周有 7 天。2 * 7 = 14 公里。", "14"),
    ("5 个盒子里各有 6 支笔。共有几支？", "每盒 6 支。5 * 6 = 30。答案：30", "30"),
    ("他 12 岁，妹妹小 4 岁。妹妹几岁？", "妹妹小 4 岁。12 - 4 = 8。妹妹 8 岁。", "8"),
]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    write_tiny_data(tmp_path)
    rows = [{"question": q, "rationale": r, "answer": a} for q, r, a in ROWS]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "chinese.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = str(tmp_path / "chinese.jsonl")
    recipe = {
        "name": "chinese",
        "student": str(tmp_path / "llama"),
        "runs": str(tmp_path / "runs"),
        "data": {
            "train": source,
            "tests": [source],
            "max_length": 900,
            "prompt": {"closing": CLOSING, "cot_prompt": "让我们一步一步地思考。"},
        },
        "weighting": BRIEF_WEIGHTING,
        "schedule": {"num_clusters": 2},
        "training": {"num_train_epochs": 2, "learning_rate": 1e-3, "save_strategy": "no"},
        "evaluation": {"max_new_tokens": 4, "batch_size": 7, "before": False},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    return path


@pytest.mark.slow
def test_seven_chinese_rationales_are_trained_on(given: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        assert main(["run", str(given)]) == 0
    table = next(record.getMessage() for record in caplog.records if "7 read" in record.getMessage())
    assert "7 kept" in table
    folder = given.parent / "runs" / "chinese"
    tokens, unfit = artifacts.load_tokens(folder / "tokens")
    assert not unfit
    assert sorted(rationale.num_steps for rationale in tokens) == [2, 2, 3, 3, 3, 3, 4]  # counted by hand
    (summary,) = folder.glob("evaluation/after/*/summary.json")
    assert json.loads(summary.read_text(encoding="utf-8"))["num_questions"] == 7


def test_texts_with_the_closing_are_judged_right(given: Path, capsys: pytest.CaptureFixture[str]):
    texts = [{"id": f"chinese-{n:05}", "text": CLOSING.format(answer=answer)} for n, (_, _, answer) in enumerate(ROWS)]
    file = given.parent / "texts.jsonl"
    file.write_text("\n".join(json.dumps(text, ensure_ascii=False) for text in texts), encoding="utf-8")
    assert main(["evaluate", str(given), "--predictions", str(file)]) == 0
    assert "7/7" in capsys.readouterr().out.replace(" ", "")

# /// script
# requires-python = ">=3.11"
# dependencies = ["kpod-distill"]
# ///
"""KPOD phase by phase, without a recipe: from rationales to a trained student.

    uv run examples/from_records.py --student HuggingFaceTB/SmolLM2-135M [--rationales FILE.jsonl] [--output student]

`uv run` installs what the script needs; with kpod installed, `python` runs it too.

Each phase takes records and returns records, so you can replace any of them by your own: other weights, another
schedule, another training loop. `help(kpod.make_schedule)` and so on explain each function.
"""

import argparse
from pathlib import Path

import kpod

RATIONALES = [
    kpod.Rationale(f"q{number}", kpod.Question(f"q{number}", question, answer), text)
    for number, (question, text, answer) in enumerate(
        [
            ("Ada has 3 bags with 4 pears each and eats 2. How many are left?", "3 * 4 = 12. Then 12 - 2 = 10.", "10"),
            ("Ben walks 6 km a day for a week. How far is that?", "A week has 7 days. He walks 6 * 7 = 42 km.", "42"),
            ("A book costs $8, a pen $3. What do 2 books and a pen cost?", "2 * 8 = 16. Then 16 + 3 = 19.", "19"),
        ]
    )
]
WEIGHTING = kpod.WeightingConfig()
EPOCHS, SEED = 4, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True)
    parser.add_argument("--rationales", type=Path, help="a rationale file (docs/data.md)")
    parser.add_argument("--output", type=Path, default=Path("student"))
    options = parser.parse_args()

    # Rationales that reach the right answer, in the student's tokens and steps.
    rationales = kpod.read_rationales(options.rationales)[0] if options.rationales else RATIONALES
    kept, wrong = kpod.filter_rationales(rationales, kpod.TeacherConfig())
    student = kpod.load_model(options.student)
    tokens, unfit = kpod.encode_rationales(student, kept, kpod.DataConfig())
    print(f"{len(tokens)} rationales, {len(wrong) + len(unfit)} dropped")

    # Which tokens count (Eq. 2-7). The model that learns it is changed, so it is not the student itself.
    learnt = kpod.learn_weights(kpod.load_model(options.student), tokens, WEIGHTING, SEED)
    if learnt.verdict.refusal:
        raise SystemExit(learnt.verdict.refusal)
    print(f"weights of {sum(map(len, learnt.weights.values()))} tokens")

    # Which steps are hard (Eq. 8), and when each is learnt (Eq. 9-13).
    difficulties = kpod.assess_difficulties(student, tokens, learnt.weights)
    config = kpod.ScheduleConfig(num_clusters=2)
    texts = {rationale.id: rationale.question.question for rationale in kept}
    clusters = kpod.cluster_questions(student, [texts[one.id] for one in tokens], config, SEED)
    schedule = kpod.make_schedule(list(difficulties), list(difficulties.values()), clusters, config, EPOCHS)
    print(f"given steps by stage and question:\n{schedule.input_steps}")

    # The student (Eq. 14-15), and how often it is right.
    training = kpod.TrainingConfig(num_train_epochs=EPOCHS, learning_rate=1e-4, save_strategy="no")
    kpod.train_student(student, tokens, learnt.weights, schedule, training, seed=SEED, output_dir=options.output)
    questions = list({rationale.question.id: rationale.question for rationale in kept}.values())
    evaluation = kpod.EvaluationConfig(max_new_tokens=64)
    trained = kpod.load_model(str(options.output))
    predictions = kpod.answer_questions(trained, questions, kpod.PromptConfig(), evaluation)
    found = kpod.summarise("train", predictions)
    low, high = found.interval
    print(f"{found.num_correct} of {found.num_questions} questions right (95 % interval {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()

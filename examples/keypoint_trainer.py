# /// script
# requires-python = ">=3.11"
# dependencies = ["kpod-distill"]
# ///
"""A plain transformers script made KPOD: another Trainer, and two more columns in the data.

    uv run examples/keypoint_trainer.py --model HuggingFaceTB/SmolLM2-135M [--output keypoint-student]

`uv run` installs what the script needs; with kpod installed, `python` runs it too.

`token_weights` are `[start, stop, weight]` for characters of the completion (1 elsewhere), for instance from
`kpod weigh --apply`; `input_steps` is how many first reasoning steps are given and not trained, for instance from a
schedule that `kpod plan` made. Rows may as well hold `messages`. `accelerate launch` and `torchrun` work unchanged.
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from kpod import KeypointTrainer

ROWS = [
    {
        "prompt": "Q: Ada has 3 bags with 4 pears each and eats 2. How many are left?\nA:",
        "completion": " Well, she has 3 * 4 = 12 pears. Then 12 - 2 = 10 are left. The answer is 10",
        "token_weights": [[0, 6, 0.1], [6, 31, 0.9]],
        "input_steps": 1,
    },
    {
        "prompt": "Q: Ben walks 6 km a day for a week. How far is that?\nA:",
        "completion": " A week has 7 days. So he walks 6 * 7 = 42 km. The answer is 42",
        "token_weights": [[0, 18, 0.4]],
        "input_steps": 0,
    },
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", default="keypoint-student")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    arguments = TrainingArguments(
        options.output,
        num_train_epochs=2,
        per_device_train_batch_size=2,
        learning_rate=1e-5,
        save_strategy="no",
    )
    trainer = KeypointTrainer(model=model, args=arguments, processing_class=tokenizer, train_dataset=ROWS)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()

"""KeypointTrainer as a transformers.Trainer: a user's rows, and the contract of loss, evaluation and prediction."""

import json

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import ProcessorMixin, TrainingArguments

import kpod
from kpod.records.errors import ConfigError, DataError
from kpod.training.row_dataset import RowDataset
from tiny import tiny_llama, tiny_t5

MAKERS = {"causal": tiny_llama, "encoder-decoder": tiny_t5}
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}<assistant>"
ROWS = [
    {"prompt": "Q: 2 + 3?\nA:", "completion": " So 2 + 3 = 5. It is 5.", "token_weights": [[4, 13, 0.5]]},
    {"prompt": "Q: 7 - 6?\nA:", "completion": " Take 6 away. 7 - 6 = 1.", "input_steps": 1},
    {"prompt": "Q: 1 + 1?\nA:", "completion": " 2"},
]
MESSAGES = [
    {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
    for row in ROWS
]


def arguments(folder, **options):
    given = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "seed": 1}
    given |= {"logging_strategy": "no", "num_train_epochs": 1, "per_device_eval_batch_size": 2}
    return TrainingArguments(str(folder), **{**given, **options})


def trainer_of(lm, folder, rows=ROWS, **options):
    named = {name: options.pop(name) for name in ("packing", "normaliser", "compute_metrics") if name in options}
    evaluated = options.pop("eval_dataset", None)
    return kpod.KeypointTrainer(
        model=lm.model,
        args=arguments(folder, **options),
        train_dataset=rows,
        eval_dataset=evaluated,
        processing_class=lm.tokenizer,
        **named,
    )


@pytest.fixture(params=MAKERS)
def lm(request):
    return MAKERS[request.param]()


# -- rows --------------------------------------------------------------------------------------------------------------


def table(rows):
    """As load_dataset gives them: every row has all columns."""
    columns = {name for row in rows for name in row}
    return datasets.Dataset.from_list([{name: row.get(name) for name in columns} for row in rows])


@pytest.mark.parametrize("kind", [list, tuple, table], ids=["list", "tuple", "datasets"])
@pytest.mark.parametrize("rows", [ROWS, MESSAGES], ids=["texts", "messages"])
def test_rows_of_every_kind_are_read_with_the_tokenizer_that_is_given_once(kind, rows, lm, tmp_path):
    lm.tokenizer.chat_template = CHAT
    trainer = trainer_of(lm, tmp_path, kind(rows))
    wanted = RowDataset(rows, lm)
    assert [e.token_ids for e in trainer.train_dataset] == [e.token_ids for e in wanted]
    assert [e.encoder_ids for e in trainer.train_dataset] == [e.encoder_ids for e in wanted]
    assert [e.weights.tolist() for e in trainer.train_dataset] == [e.weights.tolist() for e in wanted]


def test_rows_train_with_the_arguments_of_any_script_and_are_evaluated(lm, tmp_path):
    """`remove_unused_columns` is true by default, and evaluation between epochs changes no line of the metrics."""
    before = [p.detach().clone() for p in lm.model.parameters()]
    trainer = trainer_of(
        lm, tmp_path, eval_dataset={"a": ROWS, "b": table(ROWS[:1])}, eval_strategy="epoch", learning_rate=1e-2,
        num_train_epochs=2, per_device_train_batch_size=3,
    )  # fmt: skip
    trainer.train()
    assert any(not torch.equal(p, b) for p, b in zip(lm.model.parameters(), before, strict=True))
    logged = {name for line in trainer.state.log_history for name in line}
    assert {"eval_a_loss", "eval_b_loss"} <= logged
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = sum(len(example.weights) for example in trainer.train_dataset)
    assert [line["trained_tokens"] for line in lines] == [trained, trained]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_model_with_adapters_and_a_processor_read_rows(tmp_path):
    class Processor(ProcessorMixin):
        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

    lm = tiny_llama()
    wanted = RowDataset(ROWS, lm)
    model = get_peft_model(lm.model, LoraConfig(r=2, target_modules=["q_proj"]))
    trainer = kpod.KeypointTrainer(
        model, arguments(tmp_path), train_dataset=ROWS, processing_class=Processor(lm.tokenizer)
    )
    assert [e.token_ids for e in trainer.train_dataset] == [e.token_ids for e in wanted]


def test_a_model_may_be_made_by_the_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lm = tiny_llama()
    trainer = kpod.KeypointTrainer(model_init=lambda: lm.model, processing_class=lm.tokenizer, train_dataset=ROWS)
    assert trainer.args.output_dir == "tmp_trainer"
    assert len(trainer.train_dataset) == 3


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"processing_class": None}, ConfigError, "needs processing_class=tokenizer"),
        ({"compute_loss_func": print}, ConfigError, "compute_loss_func: .*leave it out"),
        ({"train_dataset": [*ROWS, {"prompt": "Q", "completion": " "}]}, DataError, "row 3: its completion is blank"),
        ({"eval_dataset": {"a": [{"text": "Q"}]}}, DataError, "row 0 needs prompt and completion"),
        ({"train_dataset": [{"input_ids": [1, 2], "labels": [1, 2]}]}, DataError, "row 0 needs prompt and completion"),
    ],
    ids=["no tokenizer", "another loss", "a wrong row", "a wrong row to evaluate", "tokenised rows"],
)
def test_what_the_trainer_cannot_use_is_refused(given, error, message, tmp_path):
    lm = tiny_llama()
    usual = {"model": lm.model, "args": arguments(tmp_path), "processing_class": lm.tokenizer, "train_dataset": ROWS}
    with pytest.raises(error, match=message):
        kpod.KeypointTrainer(**(usual | given))


def test_a_stream_of_rows_is_refused_when_it_is_read(tmp_path):
    stream = table(ROWS).to_iterable_dataset()
    with pytest.raises(DataError, match=r"a dict; train on a list or datasets\.Dataset of rows, not on a stream"):
        trainer_of(tiny_llama(), tmp_path, stream, max_steps=1).train()


# -- the loss and its outputs ------------------------------------------------------------------------------------------


def batch_of(trainer):
    return trainer.data_collator([trainer.train_dataset[number] for number in range(3)])


def gradients(model):
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("num_items", [None, 7, torch.tensor(11.0)], ids=["none", "int", "tensor"])
@pytest.mark.parametrize(("make", "packing"), [(tiny_llama, False), (tiny_llama, True), (tiny_t5, False)])
@pytest.mark.parametrize("normaliser", ["tokens", "weights"])
def test_with_outputs_loss_and_gradient_are_the_same(make, packing, normaliser, num_items, tmp_path):
    lm = make()
    trainer = trainer_of(lm, tmp_path, packing=packing, normaliser=normaliser)
    batch = batch_of(trainer)
    alone = trainer.compute_loss(lm.model, batch, num_items_in_batch=num_items)
    alone.backward()
    wanted = gradients(lm.model)
    loss, outputs = trainer.compute_loss(lm.model, batch, return_outputs=True, num_items_in_batch=num_items)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
    assert outputs.loss is outputs["loss"] is outputs[0] is loss
    assert outputs.logits.shape == (*batch["labels"].shape, lm.vocabulary)
    loss.backward()
    for one, other in zip(gradients(lm.model), wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normaliser", ["tokens", "weights"])
def test_the_loss_is_divided_by_the_items_that_are_named(lm, normaliser, tmp_path):
    trainer = trainer_of(lm, tmp_path, normaliser=normaliser)
    batch = batch_of(trainer)
    weights = np.concatenate([example.weights for example in batch["examples"]])
    own = len(weights) if normaliser == "tokens" else float(weights.sum())
    assert trainer._get_num_items_in_batch([batch], torch.device("cpu")).item() == pytest.approx(own)
    mean, one = (trainer.compute_loss(lm.model, batch, num_items_in_batch=items).item() for items in (None, 1))
    assert one == pytest.approx(own * mean, rel=1e-5)


def test_a_loss_that_a_script_asks_for_is_no_part_of_an_update(tmp_path):
    lm = tiny_llama()
    trainer = trainer_of(lm, tmp_path, per_device_train_batch_size=3)
    lm.model.train()
    trainer.compute_loss(lm.model, batch_of(trainer))
    trainer.train()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["trained_tokens"] == sum(len(example.weights) for example in trainer.train_dataset)


# -- evaluation and prediction -----------------------------------------------------------------------------------------


def weighted_loss(logits, labels, weights):
    """Eq. 15 by hand, over a whole set; logits at a position predict its label."""
    logits, labels = torch.tensor(logits), torch.tensor(labels)
    nll = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
    return float((nll[labels.flatten() != -100] * torch.tensor(weights)).sum() / len(weights))


def test_predictions_are_logits_beside_the_labels_that_they_predict(lm, tmp_path):
    trainer = trainer_of(lm, tmp_path)
    found = trainer.predict(ROWS)
    logits = found.predictions[0] if lm.encoder_decoder else found.predictions  # an encoder's states follow
    weights = np.concatenate([example.weights for example in trainer.train_dataset])
    assert (found.label_ids != -100).sum() == len(weights)
    filled = np.where(logits == -100, 0, logits)  # batches are padded to one length with -100
    wanted = weighted_loss(filled, found.label_ids, weights)
    assert found.metrics["test_loss"] == pytest.approx(wanted, rel=1e-4)
    assert trainer.evaluate(ROWS)["eval_loss"] == pytest.approx(wanted, rel=1e-4)


def test_metrics_of_a_script_are_computed_from_what_it_expects(lm, tmp_path):
    """A model that always writes one token is right where the labels hold it."""
    seen = []

    def accuracy(found):
        seen.append(found)
        logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        wanted = found.label_ids != -100
        return {"accuracy": float((logits.argmax(-1) == found.label_ids)[wanted].mean())}

    five = lm.tokenizer("5", add_special_tokens=False).input_ids[0]
    lm.model.get_output_embeddings().register_forward_hook(
        lambda _, __, logits: logits + 1e4 * functional.one_hot(torch.tensor(five), logits.shape[-1])
    )
    trainer = trainer_of(lm, tmp_path, eval_dataset=ROWS[:1], compute_metrics=accuracy)
    completion = ROWS[0]["completion"]
    assert trainer.evaluate()["eval_accuracy"] == pytest.approx(completion.count("5") / (len(completion) + 1))
    assert len(seen) == 1


def test_where_the_loss_alone_is_wanted_no_logits_are_made(tmp_path):
    lm, rows = tiny_llama(), []
    trainer = trainer_of(lm, tmp_path, eval_dataset=ROWS, per_device_eval_batch_size=3)
    trainer.evaluate()  # the first batch also proves that the head is linear
    lm.model.lm_head.register_forward_hook(lambda _, args, __: rows.append(args[0].numel()))
    trainer.evaluate()
    assert rows == [0]

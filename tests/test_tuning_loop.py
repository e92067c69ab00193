"""The training loop on a tiny random model."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from backend.demo.tokenizer import ASSISTANT, END, PAD, train_tokenizer
from backend.errors import Cancelled
from backend.tuning.data import IGNORED, Example, collate, encode, read_rows, shuffled_batches
from backend.tuning.loop import TrainingSettings, add_lora, batch_loss, sample_losses, train
from tests import tiny_tuning as tt

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

TEXTS = ["What is 12 + 7?", "12 + 7 = 19.", "Name a bird.", "A robin is a bird."]
ROWS = [
    {"id": str(i), "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for i, (q, a) in enumerate([(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])] * 4)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def examples(tokenizer):
    return [encode(tokenizer, row) for row in ROWS]


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def plan(**changes):
    return TrainingSettings(**{"steps": 12, "batch": 4, "lr": 1e-2, "seed": 3} | changes)


def fit(model, examples, **changes):
    return train(model, examples, plan(**changes), pad=0)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_digits_are_split_and_text_survives_the_round_trip(tokenizer):
    ids = tokenizer("Is it 1234?")["input_ids"]
    assert tokenizer.decode(ids) == "Is it 1234?"
    assert sum(token in "1234" for token in map(tokenizer.decode, ids)) == 4


def test_the_template_ends_every_turn_and_opens_the_answer(tokenizer):
    turns = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == f"<|user|>Hi{END}{ASSISTANT}"
    assert tokenizer.eos_token == END
    assert tokenizer.pad_token == PAD


def test_the_loss_looks_at_the_last_answer_and_its_end_only(tokenizer, examples):
    batch = collate(examples[:2], tokenizer.pad_token_id)
    learned = batch.tokens[0][batch.labels[0] != IGNORED]
    assert tokenizer.decode(learned) == TEXTS[1] + END


def test_every_sample_counts_alike_however_long_its_answer(model, examples):
    model.eval()
    together = batch_loss(model, collate(examples[:2], 0))
    alone = [batch_loss(model, collate([example], 0)) for example in examples[:2]]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_a_row_with_nothing_to_learn_has_no_loss():
    assert sample_losses(torch.randn(1, 3, 4), torch.full((1, 3), IGNORED)).tolist() == [0.0]


def test_training_lowers_the_loss(model, examples):
    losses = fit(model, examples, steps=40)
    assert losses[-1] < 0.5 * losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(model, examples):
    first, second, third = (copy.deepcopy(model) for _ in range(3))
    fit(first, examples)
    fit(second, examples)
    fit(third, examples, seed=4)
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(third))


def test_lora_leaves_the_model_under_it_as_it_was(model, examples):
    before = weights(model)
    tuned = add_lora(model, rank=2, alpha=4.0, seed=0)
    fit(tuned, examples)
    assert same(before, weights(tuned.unload()))


def test_lora_adapters_are_drawn_from_the_seed(model):
    def factors(seed):
        tuned = add_lora(copy.deepcopy(model), rank=2, alpha=4.0, seed=seed)
        return {name: tensor for name, tensor in weights(tuned).items() if "lora_A" in name}

    assert same(factors(1), factors(1))
    assert not same(factors(1), factors(2))


def test_progress_is_reported_every_step_and_can_stop_the_training(model, examples):
    seen = []

    def stop_at_three(progress):
        seen.append(progress.step)
        if progress.step == 3:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        train(model, examples, plan(), pad=0, report=stop_at_three)
    assert seen == [0, 1, 2, 3]


def test_an_epoch_shows_every_row_once():
    rows = [Example((number,), 0) for number in range(8)]
    batches = shuffled_batches(rows, 4, seed=0)
    assert sorted(example.tokens[0] for _ in range(2) for example in next(batches)) == list(range(8))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        next(shuffled_batches([Example((1,), 0)], 2, seed=0))


def test_rows_are_read_in_file_order(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "b"}\n\n{"id": "a"}\n', encoding="utf-8")
    assert [row["id"] for row in read_rows(path)] == ["b", "a"]


def test_batches_from_a_sorted_pool_show_every_row_once_and_pad_less():
    rows = [Example(tuple(range(length)), 0) for length in range(1, 17)]

    def epoch(pool):
        batches = shuffled_batches(rows, 4, seed=0, pool=pool)
        return [[len(example.tokens) for example in next(batches)] for _ in range(4)]

    assert sorted(length for batch in epoch(4) for length in batch) == list(range(1, 17))
    assert sum(max(batch) for batch in epoch(4)) < sum(max(batch) for batch in epoch(1))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_prompts_get_no_logits_and_the_losses_are_those_of_all(family):
    tools = tt.tools(tt.full(family=family), "gate")
    rows = [replace(row, prompt=3 + at % 2) for at, row in enumerate(tt.rows(6, length=14)) if len(row.tokens) > 5]
    assert len({len(row.tokens) for row in rows}) > 1
    seen = []
    head = tools.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, given, made: seen.append(made.shape[1]))
    few = tools.losses(rows)
    tools._cuts_logits = False
    every = tools.losses(rows)
    handle.remove()
    longest = max(len(row.tokens) for row in rows)
    assert seen == [longest - 2, longest]
    torch.testing.assert_close(few, every)
    pairs = [torch.autograd.grad(one.sum(), tools.parameters, allow_unused=True) for one in (few, every)]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)

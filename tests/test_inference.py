"""Answers: token for token what transformers' own greedy decoding gives, with any draft, for every attention layout."""

import itertools
import json
import random

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from backend.checkpoints.resolve import resolve
from backend.errors import Cancelled
from backend.inference.decode import Decoding, Statistics, greedy, stream
from backend.inference.model import load
from backend.types import Message
from tests import tiny

VOCABULARY = 300
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
END = frozenset(range(2, 16))  # many end tokens, so that rows of a random model end at different steps
DECODING = Decoding(new_tokens=20, end=END, pad=0, batch=8)


def llama():
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def mistral_with_a_window():
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))


def gemma_with_mixed_layers():
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=8, layer_types=layers))


def gemma_that_also_sees():
    sight = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sight |= {"image_size": 28, "patch_size": 14}
    words = {"image_token_index": 1, "boi_token_index": 1, "eoi_token_index": 1}
    text = Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=8)
    config = Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4, **words)
    return Gemma3ForConditionalGeneration(config)


MODELS = [llama, mistral_with_a_window, gemma_with_mixed_layers, gemma_that_also_sees]


@pytest.fixture(params=MODELS, scope="module")
def model(request):
    torch.manual_seed(0)
    return request.param().eval()


@pytest.fixture(scope="module")
def prompts():
    draw = random.Random(0)
    return [[draw.randrange(16, VOCABULARY) for _ in range(draw.randrange(1, 40))] for _ in range(30)]


@pytest.fixture(scope="module")
def expected(model, prompts):
    """What generate() writes for each prompt alone, cut after its first end token."""
    answers = []
    for prompt in prompts:
        written = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=DECODING.new_tokens,
            do_sample=False,
            eos_token_id=sorted(END),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        answers.append(tuple(written))
    return answers


def test_answers_equal_plain_greedy_decoding(model, prompts, expected):
    answers = greedy(model, prompts, DECODING)
    assert [answer.tokens for answer in answers] == expected
    assert {answer.finish for answer in answers} == {"stop", "length"}


@pytest.mark.parametrize("seed", range(4))
def test_no_draft_changes_an_answer(model, prompts, expected, seed):
    draw = random.Random(seed)

    def spoil(tokens):
        draft = list(tokens)[: draw.randrange(len(tokens) + 1)]
        if draft and draw.random() < 0.5:
            draft[draw.randrange(len(draft))] = draw.randrange(VOCABULARY)
        if draw.random() < 0.3:
            draft += [draw.randrange(VOCABULARY) for _ in range(30)]
        return draft

    answers = greedy(model, prompts, DECODING, drafts=[spoil(tokens) for tokens in expected])
    assert [answer.tokens for answer in answers] == expected


def test_right_drafts_cost_one_forward_per_batch(model, prompts, expected):
    statistics = Statistics()
    greedy(model, prompts, DECODING, drafts=expected, statistics=statistics)
    assert statistics.generated == 0
    assert statistics.reused == sum(map(len, expected))
    assert statistics.forwards == -(-len(prompts) // DECODING.batch)


def test_the_batch_size_changes_nothing(model, prompts, expected):
    answers = greedy(model, prompts, DECODING._replace(batch=3))
    assert [answer.tokens for answer in answers] == expected


def test_weights_changed_in_place_are_the_ones_that_answer(model, prompts, expected):
    """No cache may outlive a change of the weights: answers equal those of the changed model from scratch."""
    head = model.get_output_embeddings().weight
    kept = head.detach().clone()
    try:
        with torch.no_grad():
            head.add_(0.5 * torch.randn(head.shape, generator=torch.Generator().manual_seed(3)))
        fresh = greedy(model, prompts, DECODING)
        assert [answer.tokens for answer in fresh] != expected
        assert greedy(model, prompts, DECODING, drafts=expected) == fresh
    finally:
        with torch.no_grad():
            head.copy_(kept)


def test_streaming_ends_with_the_same_words(model, prompts, expected):
    for prompt, tokens in list(zip(prompts, expected, strict=True))[:5]:
        steps = list(stream(model, prompt, DECODING))
        assert steps[-1] == [token for token in tokens if token not in END]
        assert all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(steps))


def test_a_check_can_stop_between_steps(model, prompts):
    def stop(finished):
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        greedy(model, prompts, DECODING, check=stop)


def test_a_model_that_also_sees_ends_where_its_language_model_does(settings, tmp_path):
    folder = tiny.folder(tmp_path / "sees", "gemma3", tied=True)
    (folder / "generation_config.json").unlink()
    words = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(words | {"eos_token": None}))
    responder = load(resolve(str(folder), settings), device=torch.device("cpu"))
    assert responder.end == {1}
    prompt = responder.encode([Message("user", "How do I help the fox?")])
    (answer,) = responder.answer([prompt], responder.decoding(8))
    assert answer.tokens

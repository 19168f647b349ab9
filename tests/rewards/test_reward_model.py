"""A reward model gives what a plain AutoModelForSequenceClassification gives, in batches, less its offset."""

from __future__ import annotations

import math

import pytest
import torch

from textgym.rewards import RewardError, RewardModel, call_reward

SEQUENCES = [[4, 6, 9, 3], [7, 8], [5, 4, 4, 4, 10, 11, 12, 3], [9, 3], [4, 6, 3, 3], [12, 1]]


def make(lm, tokenizer, kind="gpt2", **settings):
    return RewardModel.from_causal_lm(lm(kind), tokenizer, torch.Generator().manual_seed(1), **settings)


def plain_scores(model, sequences):
    """transformers' own reading of single sequences, without padding or mask."""
    with torch.no_grad():
        return [model(torch.tensor([s])).logits.item() for s in sequences]


@pytest.mark.parametrize("pad", [1, 3, None], ids=["pad", "pad=eos", "no pad"])
def test_batches_equal_plain_single_sequences(kind, pad, lm, tokenizer):
    from transformers import AutoModelForSequenceClassification

    config = lm(kind).config
    config.num_labels, config.pad_token_id = 1, pad
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    reward = RewardModel(model, tokenizer, batch_size=4)
    reward.set_offset(0.25)
    expected = plain_scores(model, SEQUENCES)
    assert len({round(x, 4) for x in expected}) >= 5  # the test would notice a mix-up
    assert reward.score_ids(SEQUENCES) == pytest.approx([x - 0.25 for x in expected], abs=1e-6)


def test_an_encoder_classifier_works_as_well(tokenizer):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        pad_token_id=1,
        num_labels=1,
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    expected = plain_scores(model, SEQUENCES[:4])
    assert RewardModel(model, tokenizer).score_ids(SEQUENCES[:4]) == pytest.approx(expected, abs=1e-6)


def test_the_score_is_read_at_the_end_token(kind, lm, tokenizer):
    """Also for a tokenizer whose PAD is its end token: our config then has no PAD."""
    reward = make(lm, tokenizer, kind)
    ids = reward.encode("the cat", " sat")
    assert ids == [4, 6, 9, 3]
    hidden = reward.model.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
    assert reward.raw_scores([ids]).item() == pytest.approx((reward.model.score.weight[0] @ hidden).item(), abs=1e-6)


def test_pad_is_never_the_end_token(lm, tokenizer_with):
    tokenizer = tokenizer_with(pad="</s>")
    reward = make(lm, tokenizer)
    assert reward.model.config.pad_token_id is None
    assert tokenizer.pad_token == "</s>"
    assert plain_scores(reward.model, [[4, 6, 3]]) == pytest.approx(reward.score_ids([[4, 6, 3]]), abs=1e-6)
    assert reward.score_ids([[4, 6, 3]]) != pytest.approx(reward.score_ids([[4, 6]]), abs=1e-3)


def test_save_and_load_round_trip(kind, tmp_path, lm, tokenizer):
    from transformers import AutoModelForSequenceClassification

    reward = make(lm, tokenizer, kind)
    before = reward.score_ids(SEQUENCES)
    reward.set_offset(1.5)
    for _ in range(2):  # the second replaces the first
        reward.save(tmp_path / "runs" / "rm")
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["rm"]  # no scratch left
    loaded = RewardModel.load(tmp_path / "runs" / "rm", device="cpu", batch_size=2)
    assert loaded.offset == 1.5
    assert loaded.score_ids(SEQUENCES) == pytest.approx([x - 1.5 for x in before], abs=1e-6)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "runs" / "rm").eval()
    assert plain_scores(plain, SEQUENCES) == pytest.approx(before, abs=1e-6)


def test_save_does_not_replace_what_is_no_model(tmp_path, lm, tokenizer):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a saved reward model"):
        make(lm, tokenizer).save(tmp_path)
    with pytest.raises(FileExistsError):
        make(lm, tokenizer).save(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_head_comes_from_the_generator_alone(lm, tokenizer):
    model = lm("gpt2", width=512, layers=1)
    state = torch.get_rng_state()
    heads = [
        RewardModel.from_causal_lm(model, tokenizer, torch.Generator().manual_seed(s)).model.score.weight
        for s in (5, 5, 6)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    n = 512
    assert heads[0].std().item() == pytest.approx(1 / math.sqrt(n + 1), rel=4 / math.sqrt(2 * n))
    assert model.config.num_labels == 2  # the language model's own config is untouched


def test_the_trunk_is_a_copy(kind, tmp_path, lm, tokenizer):
    model = lm(kind)
    model.save_pretrained(tmp_path)
    reward = RewardModel.from_causal_lm(tmp_path, tokenizer, torch.Generator().manual_seed(1))
    ids = torch.tensor([[4, 6, 9]])
    model.eval()
    with torch.no_grad():
        expected = model.base_model(ids).last_hidden_state
        torch.testing.assert_close(reward.model.base_model(ids).last_hidden_state, expected)
        next(model.parameters()).zero_()
        torch.testing.assert_close(reward.model.base_model(ids).last_hidden_state, expected)


def test_end_tokens(lm, tokenizer):
    reward = make(lm, tokenizer)
    assert reward.encode("the cat", " sat", ended=False) == [4, 6, 9]
    assert reward.encode("the cat", "") == [4, 6, 3]
    # A policy may end with another special token, or by a stop rule: the model reads its own end token.
    assert reward.closed([4, 2], "") == [4, 3]
    assert reward.closed([4, 5], "") == [4, 5, 3]
    assert reward.closed([4, 3], "") == [4, 3]


def test_ids_pass_through_or_text_is_encoded_again(lm, tokenizer, tokenizer_with):
    """The ids differ from the text on purpose, to see which of the two was read."""
    reward = make(lm, tokenizer)
    columns = {"prompt_ids": [[4, 6], [4, 7]], "finish_reason": ["stop", "length"]}
    arguments = (["the cat", "the dog"], [" sat", " ran"], [[10, 3], [11]])
    by_ids = reward.score_ids([[4, 6, 10, 3], [4, 7, 11]])
    by_text = reward.score_ids([[4, 6, 9, 3], [4, 7, 10]])
    assert call_reward(reward.bind(tokenizer), *arguments, columns) == pytest.approx(by_ids, abs=1e-6)
    other = tokenizer_with(words=["unlike"])
    assert call_reward(reward.bind(other), *arguments, columns) == pytest.approx(by_text, abs=1e-6)
    assert call_reward(reward.bind(tokenizer).bind(other), *arguments, columns) == pytest.approx(by_text, abs=1e-6)
    # Without prompt_ids there is only the text; without finish_reason every text counts as ended.
    ended = reward.score_ids([[4, 6, 9, 3], [4, 7, 10, 3]])
    assert call_reward(reward.bind(tokenizer), *arguments, {}) == pytest.approx(ended, abs=1e-6)
    assert reward.score(arguments[0], arguments[1]) == pytest.approx(ended, abs=1e-6)


def test_conversations_are_rendered_by_the_chat_template_or_plainly(lm, tokenizer_with, chat_template):
    tokenizer = tokenizer_with()
    reward = make(lm, tokenizer)
    messages = [{"role": "user", "content": "tell me"}]
    assert reward.encode(messages, " the cat") == reward.encode("Human: tell me\n\nAssistant: the cat", "")
    tokenizer.chat_template = chat_template
    assert reward.encode(messages, "the cat") == reward.encode("user : tell me assistant : ", "the cat")


def test_too_long_is_an_error_or_a_warning(lm, tokenizer):
    long = "the cat " * 20
    with pytest.raises(ValueError, match=r'41 tokens, the reward model reads at most 32; .*too_long="truncate"'):
        make(lm, tokenizer).encode(long, "")
    with pytest.raises(RewardError, match="completion 1 of 2"):
        call_reward(make(lm, tokenizer), ["the", long], ["", ""], [[3], [3]], {})
    cutting = make(lm, tokenizer, too_long="truncate")
    with pytest.warns(UserWarning, match="dropped 9 from the left"):
        assert cutting.encode(long, "") == [6, *[4, 6] * 15, 3]


def test_dropout_is_off_and_no_gradient_is_kept(lm, tokenizer):
    reward = make(lm, tokenizer)
    assert not reward.model.training
    assert reward.score_ids(SEQUENCES) == reward.score_ids(SEQUENCES)
    assert reward.raw_scores(SEQUENCES).requires_grad


def test_what_is_no_reward_model_is_refused(tmp_path, lm, tokenizer):
    lm().save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match=r"not a reward model: it lacks the weights score\.weight"):
        RewardModel.load(tmp_path / "lm")
    with pytest.raises(FileNotFoundError, match="there is no such directory"):
        RewardModel.load(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="there is no such directory"):
        RewardModel.load("tests/missing")  # looks like a hub id, but tests/ is here
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Expected a directory with config\.json"):
        RewardModel.load(tmp_path / "empty")

    from transformers import AutoModelForSequenceClassification

    classifier = AutoModelForSequenceClassification.from_config(lm().config)
    with pytest.raises(ValueError, match=r"one output \(num_labels=1\), this GPT2ForSequenceClassification has 2"):
        RewardModel(classifier, tokenizer)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"too_long": "ignore"}])
def test_settings_are_checked(settings, lm, tokenizer):
    with pytest.raises(ValueError, match=next(iter(settings))):
        make(lm, tokenizer, **settings)

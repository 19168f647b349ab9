"""Classifiers as rewards read what plain transformers reads of single texts, and give one label's probability."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import word_mdp
from textgym.rewards import ClassifierReward, RewardModel, call_reward, resolve_reward
from textgym.rewards.models.classifier import label_index
from textgym.types import Prompt

WORDS = ["good", "bad", "film", "the", "a", "very", "was", "it", "human", ":", "assistant"]
PROMPTS = ["the film", "the film was", "it was", "a very very very good film the film was a", "it"]
TEXTS = [" was good", " bad", "", " film", " was a very bad film"]
THREE = {0: "sad", 1: "so so", 2: "glad"}


@pytest.fixture(scope="module")
def bert_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import BertTokenizerFast

    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    return BertTokenizerFast(str(path))


def bert(labels: dict[int, str] = THREE, seed: int = 0, **settings: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        id2label=labels,
        label2id={name: i for i, name in labels.items()},
        initializer_range=0.3,  # logits that differ
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForSequenceClassification(config).eval()


def plain_logits(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    """transformers' own reading of one text."""
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits[0].double()


def ask(reward: ClassifierReward, prompts: list[Any] = PROMPTS, texts: list[Any] = TEXTS) -> list[Any]:
    return call_reward(reward, prompts, texts, [[1]] * len(texts), {})


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_softmax_over_all_labels(bert_tokenizer: Any, batch_size: int) -> None:
    model = bert()
    logits = [plain_logits(model, bert_tokenizer, p + t) for p, t in zip(PROMPTS, TEXTS, strict=True)]
    assert len({round(float(x[2]), 3) for x in logits}) == 5  # the test would notice a mix-up
    for i, label in THREE.items():
        expected = [math.exp(x[i]) / sum(math.exp(y) for y in x) for x in logits]
        found = ask(ClassifierReward(model, bert_tokenizer, label, batch_size=batch_size))
        assert found == pytest.approx(expected, abs=1e-6)
        odds = ask(ClassifierReward(model, bert_tokenizer, label, "logit", batch_size=batch_size))
        assert odds == pytest.approx([math.log(p / (1 - p)) for p in expected], abs=1e-4)


def test_a_sigmoid_for_each_label_where_several_may_hold(bert_tokenizer: Any) -> None:
    model = bert(problem_type="multi_label_classification")
    logits = [float(plain_logits(model, bert_tokenizer, p + t)[1]) for p, t in zip(PROMPTS, TEXTS, strict=True)]
    expected = [1 / (1 + math.exp(-x)) for x in logits]
    assert ask(ClassifierReward(model, bert_tokenizer, "so so")) == pytest.approx(expected, abs=1e-6)
    assert ask(ClassifierReward(model, bert_tokenizer, "so_so", "logit")) == pytest.approx(logits, abs=1e-5)


def test_log_odds_go_on_where_probabilities_are_one(bert_tokenizer: Any) -> None:
    model = bert({0: "NEGATIVE", 1: "POSITIVE"})
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([-20.0, 30.0]))
    assert ask(ClassifierReward(model, bert_tokenizer, "POSITIVE")) == [1.0] * 5
    assert ask(ClassifierReward(model, bert_tokenizer, "POSITIVE", "logit")) == pytest.approx([50.0] * 5)
    assert ask(ClassifierReward(model, bert_tokenizer, "NEGATIVE", "logit")) == pytest.approx([-50.0] * 5)


def test_the_completion_alone(bert_tokenizer: Any) -> None:
    model = bert()
    expected = [float(plain_logits(model, bert_tokenizer, text).softmax(0)[0]) for text in TEXTS]
    assert ask(ClassifierReward(model, bert_tokenizer, "sad", reads="completion")) == pytest.approx(expected, abs=1e-6)


def test_conversations_are_read_as_rendered(bert_tokenizer: Any) -> None:
    reward = ClassifierReward(bert(), bert_tokenizer, "sad")
    messages = [{"role": "user", "content": "it was"}]
    (expected,) = ask(reward, ["Human: it was\n\nAssistant:"], [" good"])
    assert ask(reward, [messages], [" good"]) == [expected]
    assert ask(reward, [messages], [[{"role": "assistant", "content": " good"}]]) == [expected]


def spelt(text: str) -> str:
    """Special tokens as text, as BERT's tokenizer spells it: brackets are words, and unknown ones here."""
    for name in ("SEP", "CLS", "MASK", "PAD"):
        text = text.replace(f"[{name}]", f" ( {name.lower()} ) ")
    return text


def test_strings_of_special_tokens_do_not_steer_it(bert_tokenizer: Any) -> None:
    model = bert()
    prompts, texts = ["it was [MASK]", "a film"], [" [SEP] good [CLS]", " was [PAD] bad"]
    whole = [p + t for p, t in zip(prompts, texts, strict=True)]
    expected, whole_expected = (
        [float(plain_logits(model, bert_tokenizer, spelt(t)).softmax(0)[0]) for t in read] for read in (texts, whole)
    )
    steered = [float(plain_logits(model, bert_tokenizer, t).softmax(0)[0]) for t in whole]
    assert steered != pytest.approx(whole_expected, abs=1e-3)  # the test would notice
    assert ask(ClassifierReward(model, bert_tokenizer, "sad"), prompts, texts) == pytest.approx(whole_expected)
    completion = ClassifierReward(model, bert_tokenizer, "sad", reads="completion")
    assert ask(completion, prompts, texts) == pytest.approx(expected, abs=1e-6)
    messages = [[{"role": "user", "content": p}] for p in prompts]
    expected = [
        float(plain_logits(model, bert_tokenizer, spelt(f"Human: {p}\n\nAssistant:{t}")).softmax(0)[0])
        for p, t in zip(prompts, texts, strict=True)
    ]
    assert ask(ClassifierReward(model, bert_tokenizer, "sad"), messages, texts) == pytest.approx(expected, abs=1e-6)
    assert bert_tokenizer("[SEP]", add_special_tokens=False)["input_ids"] == [3]  # the tokenizer is as it was


def test_a_templates_special_tokens_are_tokens_and_those_of_users_text(bert_tokenizer: Any) -> None:
    model, tokenizer = bert(), copy.deepcopy(bert_tokenizer)
    tokenizer.chat_template = "[CLS]{% for m in messages %}{{ m.content }}[SEP]{% endfor %}"
    asked, said = "it was [SEP]", " good [CLS]"
    ids = [2, *bert_tokenizer(spelt(asked), add_special_tokens=False)["input_ids"], 3]
    ids += bert_tokenizer(spelt(said), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        talk = float(model(torch.tensor([ids])).logits[0].double().softmax(0)[0])
    text = float(plain_logits(model, tokenizer, "the film").softmax(0)[0])
    prompts = [[{"role": "user", "content": asked}], "the"]  # texts and conversations stand in one batch
    reward = ClassifierReward(model, tokenizer, "sad")
    assert ask(reward, prompts, [said, " film"]) == pytest.approx([talk, text], abs=1e-6)


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}</s>{% endfor %}"])
def test_a_tokenizer_that_makes_a_special_token_even_of_text_reads_it_with_a_space(template: str | None) -> None:
    """Unigram vocabularies (T5, XLM-R) hold ``</s>`` as a piece."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -3.0) for letter in "▁abhu/s<>")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", chat_template=template
    )
    assert tokenizer("a</s>", split_special_tokens=True)["input_ids"][-1] == 1
    backend.encode_special_tokens = False
    model = bert()
    ids = [tokenizer.convert_tokens_to_ids(list(text)) for text in ("a<▁/s>b", "<▁/s>")]
    asked, said = "a</s>b", "</s>"
    prompt: Any = asked if template is None else [{"role": "user", "content": asked}]
    with torch.no_grad():
        read = [*ids[0], *([] if template is None else [1]), *ids[1]]
        expected = float(model(torch.tensor([read])).logits[0].double().softmax(0)[0])
    assert ask(ClassifierReward(model, tokenizer, "sad"), [prompt], [said]) == pytest.approx([expected], abs=1e-6)


def test_bart_counts_the_ends_of_its_tokenizer_alone(bert_tokenizer: Any) -> None:
    """transformers refuses a batch whose texts differ in their number of end tokens."""
    from transformers import BartConfig, BartForSequenceClassification

    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 24}
    config = BartConfig(
        vocab_size=16, num_labels=2, eos_token_id=3, pad_token_id=0, bos_token_id=2, init_std=0.3, **sizes, **heads
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BartForSequenceClassification(config).eval()
    texts = ["the film [SEP] was", "it was good"]
    expected = [float(plain_logits(model, bert_tokenizer, spelt(t)).softmax(0)[1]) for t in texts]
    assert ask(ClassifierReward(model, bert_tokenizer, 1), texts, ["", ""]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pad", [1, 3, None], ids=["pad", "pad=eos", "no pad"])
def test_a_decoder_reads_the_last_token(lm: Any, tokenizer: Any, pad: int | None) -> None:
    """Its tokenizer adds no special tokens; batches equal single texts whatever its PAD is."""
    from transformers import AutoModelForSequenceClassification

    config = lm().config
    config.num_labels, config.pad_token_id, config.initializer_range = 3, pad, 0.5
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    prompts, texts = ["the cat", "a", "the dog", "the good bird"], [" sat", " dog ran .", "", " flew on the mat"]
    expected = [float(plain_logits(model, tokenizer, p + t).softmax(0)[2]) for p, t in zip(prompts, texts, strict=True)]
    assert ask(ClassifierReward(model, tokenizer, "LABEL_2"), prompts, texts) == pytest.approx(expected, abs=1e-6)
    assert ask(ClassifierReward(model, tokenizer, 2), prompts, texts) == pytest.approx(expected, abs=1e-6)


def test_an_encoder_whose_tokenizer_has_no_pad_is_read_text_by_text(tokenizer_with: Any) -> None:
    tokenizer = tokenizer_with(pad=None)
    model = bert()
    model.resize_token_embeddings(len(tokenizer))
    prompts, texts = ["the cat", "the dog"], [" sat", " ran on the mat"]
    expected = [float(plain_logits(model, tokenizer, p + t).softmax(0)[0]) for p, t in zip(prompts, texts, strict=True)]
    assert ask(ClassifierReward(model, tokenizer, "sad"), prompts, texts) == pytest.approx(expected, abs=1e-6)


# --- what is too long ---------------------------------------------------------------------------------------------


def test_truncation_keeps_the_end_and_the_special_tokens(bert_tokenizer: Any) -> None:
    model, long = bert(), "the " * 20 + "film was very very good"
    with pytest.raises(ValueError, match=r'27 tokens, the classifier reads at most 24; .*too_long="truncate"'):
        ClassifierReward(model, bert_tokenizer, "sad")([long, "it"], ["", ""])
    cutting = ClassifierReward(model, bert_tokenizer, "sad", too_long="truncate")
    expected = [float(plain_logits(model, bert_tokenizer, t).softmax(0)[0]) for t in ("the " * 17 + long[-23:], "it")]
    with pytest.warns(UserWarning, match="dropped 3 from the left"):
        assert cutting([long, "it"], ["", ""]) == pytest.approx(expected, abs=1e-6)


def test_positions_that_count_from_pad_on_leave_fewer(bert_tokenizer: Any) -> None:
    """RoBERTa of 12 positions reads 10 tokens where PAD is 1: transformers itself fails at 11."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(vocab_size=16, max_position_embeddings=12, pad_token_id=1, num_labels=2, **sizes)
    model = RobertaForSequenceClassification(config).eval()
    with torch.no_grad():
        model(torch.full((1, 10), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.full((1, 11), 5))
    reward = ClassifierReward(model, bert_tokenizer, "LABEL_1")
    reward(["the " * 8], [""])
    with pytest.raises(ValueError, match="11 tokens, the classifier reads at most 10"):
        reward(["the " * 9], [""])


def test_a_model_without_a_limit(bert_tokenizer: Any) -> None:
    """Of XLNet, whose config says -1; its tokenizers pad on the left, since it reads the last column."""
    from transformers import XLNetConfig, XLNetForSequenceClassification

    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "initializer_range": 0.5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = XLNetForSequenceClassification(XLNetConfig(vocab_size=16, num_labels=3, pad_token_id=0, **sizes)).eval()
    tokenizer = copy.deepcopy(bert_tokenizer)
    tokenizer.padding_side = "left"
    texts = ["the film " * 40, "it was", "a very good film"]
    expected = [float(plain_logits(model, tokenizer, text).softmax(0)[1]) for text in texts]
    assert ask(ClassifierReward(model, tokenizer, 1), texts, [""] * 3) == pytest.approx(expected, abs=1e-6)


def prompts_of(*texts: str) -> list[Prompt]:
    return [Prompt(text, text, (5,) * len(text.split())) for text in texts]


def test_a_task_that_it_cannot_read_is_refused_beforehand(bert_tokenizer: Any, tokenizer: Any) -> None:
    reward = ClassifierReward(bert(), bert_tokenizer, "sad")
    own, foreign = reward.bind(bert_tokenizer), reward.bind(tokenizer)
    task = prompts_of("the film", "it was a film")  # 4 tokens, [CLS] and [SEP]: 18 are left of 24
    own.check_lengths(task, 18, (3,), False)
    with pytest.raises(ValueError, match=r"at most 24 tokens, .* 25: 6 before .* 19 of it; .*too_long=truncate"):
        own.check_lengths(task, 19, (3,), False)
    foreign.check_lengths(task, 500, (3,), False)  # what its tokens will be, nobody knows
    ClassifierReward(bert(), bert_tokenizer, "sad", too_long="truncate").bind(bert_tokenizer).check_lengths(
        task, 500, (3,), False
    )
    with pytest.raises(ValueError, match=r"at most 24 tokens, .* 25: 25 before"):
        foreign.check_lengths(prompts_of("the " * 23), 1, (3,), False)
    completion = ClassifierReward(bert(), bert_tokenizer, "sad", reads="completion").bind(bert_tokenizer)
    completion.check_lengths(prompts_of("the " * 99), 22, (3,), False)
    with pytest.raises(ValueError, match=r"the completion of this task can have 25"):
        completion.check_lengths(prompts_of("the"), 23, (3,), False)


def test_a_task_asks(bert_tokenizer: Any) -> None:
    word_mdp(ClassifierReward(bert(), bert_tokenizer, "sad"))
    with pytest.raises(ValueError, match="classifier for 'sad' reads at most 24"):
        word_mdp(ClassifierReward(bert(), bert_tokenizer, "sad"), prompts=["w0 " * 30], max_prompt_length=40)


# --- labels, and what is no classifier ----------------------------------------------------------------------------


def test_labels_by_name_or_index() -> None:
    named, plain = bert().config, bert({0: "LABEL_0", 1: "LABEL_1"}).config
    stars = bert({0: "1", 1: "2", 2: "3"}).config
    assert [label_index(named, label) for label in ("sad", "so so", "so_so", "glad", 2)] == [0, 1, 1, 2, 2]
    assert [label_index(plain, label) for label in ("LABEL_1", "1", 1)] == [1, 1, 1]
    assert [label_index(stars, label) for label in ("1", 1)] == [0, 1]  # a text is a name where names are
    for config, label, message in (
        (named, "Glad", "label='Glad' is not a label .*: sad, so so, glad; did you mean 'glad'"),
        (named, "1", "label='1' is not a label"),
        (named, 3, "label=3 is not a label"),
        (named, -1, "label=-1 is not a label"),
        (plain, "2", "labels are: LABEL_0, LABEL_1"),
        (bert({0: "a", 1: "a"}).config, "a", "the name of several labels; give an index"),
    ):
        with pytest.raises(ValueError, match=message):
            label_index(config, label)


def test_it_is_logged_under_its_label(bert_tokenizer: Any) -> None:
    assert ClassifierReward(bert(), bert_tokenizer, 2).name == "glad"
    assert ClassifierReward(bert(), bert_tokenizer, 2, name="mood").name == "mood"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "happy"}, "whose labels are: sad, so so, glad"),
        ({"score": "softmax"}, "score='softmax' is not one of 'probability', 'logit'"),
        ({"reads": "prompt"}, "reads='prompt' is not one of 'whole', 'completion'"),
        ({"too_long": "cut"}, "too_long='cut'"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str, bert_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierReward(bert(), bert_tokenizer, **{"label": "sad", **settings})


def test_outputs_that_are_no_probabilities_are_refused(bert_tokenizer: Any) -> None:
    for model in (bert({0: "LABEL_0"}), bert(problem_type="regression")):
        with pytest.raises(ValueError, match=r"not probabilities of labels; .*rm:DIR"):
            ClassifierReward(model, bert_tokenizer, 0)
    ClassifierReward(bert({0: "toxic"}, problem_type="multi_label_classification"), bert_tokenizer, "toxic")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, bert_tokenizer: Any) -> Path:
    directory = tmp_path_factory.mktemp("models") / "clf,2024"
    bert().save_pretrained(directory)
    bert_tokenizer.save_pretrained(directory)
    return directory


def test_a_line_of_text_names_directory_label_and_options(saved: Path) -> None:
    expected = ask(ClassifierReward.load(saved, "so so", device="cpu"))
    odds = ask(ClassifierReward.load(saved, "so so", device="cpu", score="logit"))
    link = saved.parent / "clf"
    if not link.exists():
        link.symlink_to(saved)
    for text, weight, scores in (
        (f"clf:{link},label=so_so", 1.0, expected),
        (f"clf:{link},-0.5,score=logit,label=so_so", -0.5, odds),
        (f"clf:{link},label=so_so,score=logit,2", 2.0, odds),
    ):
        reward = resolve_reward(text, {})
        assert reward.names == ("so so",)
        assert reward.weights == (weight,)
        assert ask(reward.rewards[0]) == pytest.approx(scores, abs=1e-6)


def test_a_label_is_checked_before_the_weights_are_read(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    with pytest.raises(ValueError, match=r"label='happy' is not a label .*sad, so so, glad"):
        ClassifierReward.load(tmp_path, "happy")
    with pytest.raises(FileNotFoundError, match="no classifier can be loaded from"):
        ClassifierReward.load(tmp_path, "sad")


def test_what_is_no_classifier_is_refused(tmp_path: Path, lm: Any, tokenizer: Any) -> None:
    lm().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not a classifier: it lacks the weights score\.weight"):
        ClassifierReward.load(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="there is no such directory"):
        ClassifierReward.load(tmp_path / "missing", "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"no classifier can be loaded .*Expected a directory with config\.json"
    ):
        ClassifierReward.load(tmp_path / "empty", "x")


def test_a_reward_model_of_several_labels_shows_the_line_to_write(saved: Path, bert_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"sad, so so, glad\. Name the label .*: clf:.*/clf,2024,label=glad, or"):
        RewardModel.load(saved, device="cpu")
    with pytest.raises(ValueError, match=r"clf:DIR,label=so_so, or .*ClassifierReward.load\('DIR', label='so_so'\)"):
        RewardModel(bert({0: "sad", 1: "so so"}), bert_tokenizer)

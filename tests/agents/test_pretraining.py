"""PPO-ptx: pretraining text in every update, with any algorithm on the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.agents.test_algorithms import N_WORDS, OWN, make_env
from tests.agents.test_ppo import Watch, equal, parameters
from tests.helpers import tiny_gpt2, tiny_t5, word_mdp, word_tokenizer
from textgym.agents import SequenceAlgorithm
from textgym.agents.loop.episodes import minibatches
from textgym.agents.offline.data import encode_demonstrations
from textgym.agents.offline.pretraining import Pretraining, encode_texts, pretraining_loss
from textgym.agents.ppo import PPO
from textgym.agents.registry import ALGORITHMS
from textgym.env.vector import TokenVectorEnv
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk

LINES = [" ".join(f"w{(i + step) % N_WORDS}" for step in range(2 + i % 7)) for i in range(24)]
TEXTS = encode_texts(LINES, word_tokenizer(N_WORDS), 1, 8)


def make(name: str, pretraining: Pretraining | None, **changes: Any) -> SequenceAlgorithm:
    sizes = {"episodes_per_iteration": 16, "minibatch_size": 4, "seed": 0, **OWN.get(name, {}), **changes}
    model = tiny_gpt2(N_WORDS + 2)
    return ALGORITHMS[name]("LMPolicy", make_env(), 3e-3, model=model, pretraining=pretraining, **sizes)


def language_loss(model: Any, shown: Any) -> torch.Tensor:
    """−log p per token after the prompts, text by text and without padding."""
    losses = []
    for one in shown:
        ids = torch.tensor([*one.prompt.ids, *one.response_ids])
        first = len(one.prompt.ids)
        losses.append(cross_entropy(model(ids[None]).logits[0, first - 1 : -1], ids[first:], reduction="none"))
    return torch.cat(losses).mean()


def gradient(policy: Any) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in policy.lm.parameters() if p.requires_grad])


# --- the objective -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_at_zero_it_only_measures_bit_for_bit(name: str) -> None:
    fewer = {"minibatch_size": 8}  # updates
    plain, watched, watch = make(name, None, **fewer), make(name, Pretraining(TEXTS, 0.0, 4), **fewer), Watch()
    plain.learn(100)
    watched.learn(100, watch)
    assert equal(parameters(plain), parameters(watched))
    assert all(row["train/ptx_loss"] > 0 for row in watch.logged)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_text_is_learned_beside_the_reward(name: str) -> None:
    pretraining = Pretraining(TEXTS, 27.8, 8)
    bare, kept = make(name, None, n_epochs=2), make(name, pretraining, n_epochs=2)
    before = pretraining_loss(kept.policy.trunk, TEXTS)["mean"]
    for algorithm in (bare, kept):
        algorithm.learn(160)
    losses = [pretraining_loss(algorithm.policy.trunk, TEXTS)["mean"] for algorithm in (kept, bare)]
    assert losses[0] < min(losses[1], before)


@pytest.mark.parametrize(("name", "lora"), [("ppo", None), ("grpo", None), ("reinforce", None), ("ppo", 2)])
def test_a_gradient_is_that_of_the_policy_and_gamma_times_that_of_the_text(name: str, lora: int | None) -> None:
    pretraining = Pretraining(TEXTS, 2.5, 4)
    whole: dict[str, Any] = {"minibatch_size": 16, "n_epochs": 1, "max_grad_norm": 1e9}
    algorithm = make(name, pretraining, policy_kwargs={"lora": lora} if lora else None, **whole)
    episodes = algorithm.collect()
    assert episodes is not None
    scored = algorithm.score(episodes)
    estimated = algorithm.estimate_advantages(scored)

    order = np.random.default_rng([0, algorithm.iteration])
    batch = next(minibatches(scored, estimated, 16, 1, order, algorithm.device))
    policy = algorithm.policy
    policy.zero_grad()
    algorithm.loss(policy.evaluate(batch.input_ids, batch.attention_mask), batch)[0].backward()
    expected = gradient(policy)
    policy.zero_grad()
    language_loss(policy.lm, pretraining.draw(0, 0)).backward()
    expected = expected + 2.5 * gradient(policy)

    taken: list[torch.Tensor] = []
    policy.optimizer.step = lambda: taken.append(gradient(policy))  # type: ignore[method-assign,assignment]
    algorithm.update(scored, estimated)
    torch.testing.assert_close(taken[0], expected, atol=1e-6, rtol=1e-5)


def test_the_loss_is_of_the_model_itself_whatever_is_sampled() -> None:
    algorithm = make("ppo", Pretraining(TEXTS, 1.0, 4), sampling=Sampling(temperature=0.5, min_new_tokens=3, top_k=5))
    assert algorithm.pretraining is not None
    loss = algorithm.pretraining.loss(algorithm.policy.trunk, 0, 7)
    torch.testing.assert_close(loss, language_loss(algorithm.policy.lm, algorithm.pretraining.draw(0, 7)))


def test_held_out_loss_and_its_error() -> None:
    model = tiny_gpt2(N_WORDS + 2)
    with torch.no_grad():
        losses = np.array([float(language_loss(model, [one])) * len(one.response_ids) for one in TEXTS])
    counts = np.array([len(one.response_ids) for one in TEXTS])
    measured = pretraining_loss(Trunk(model), TEXTS, batch_size=5)
    assert measured["mean"] == pytest.approx(losses.sum() / counts.sum(), rel=1e-5)
    rng = np.random.default_rng(0)
    rows = rng.integers(len(TEXTS), size=(4000, len(TEXTS)))
    bootstrap = losses[rows].sum(1) / counts[rows].sum(1)
    assert measured["sem"] == pytest.approx(bootstrap.std(), rel=0.1)


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
def test_an_encoder_decoder_learns_pairs() -> None:
    rows = [{"prompt": "w1 w2", "completion": "w3"}, {"prompt": "w4", "completion": "w5 w6"}]
    pretraining = Pretraining(encode_demonstrations(rows, word_tokenizer(), 1), 5.0, 2)
    env = TokenVectorEnv(word_mdp(), 8, "Disabled")
    algorithm = PPO("LMPolicy", env, 1e-2, model=tiny_t5(), pretraining=pretraining, episodes_per_iteration=16,
                    minibatch_size=8)  # fmt: skip
    before = pretraining_loss(algorithm.policy.trunk, pretraining.texts)["mean"]
    algorithm.learn(150)
    assert pretraining_loss(algorithm.policy.trunk, pretraining.texts)["mean"] < before


# --- the texts ---------------------------------------------------------------------------------------------------


def test_every_token_but_a_documents_first_is_predicted_once() -> None:
    tokenizer = word_tokenizer()
    document = [i % 14 + 2 for i in range(20)]
    pieces = encode_texts([tokenizer.decode(document)], tokenizer, 1, 6)
    assert max(piece.n_tokens for piece in pieces) == 6
    assert [i for piece in pieces for i in piece.response_ids] == [*document[1:], 1]
    assert [piece.prompt.ids[0] for piece in pieces] == [document[0], *(p.response_ids[-1] for p in pieces[:-1])]


def test_draws_depend_on_seed_and_update_alone() -> None:
    pretraining = Pretraining(TEXTS, 1.0, 4)
    assert pretraining.draw(3, 5) == pretraining.draw(3, 5)
    assert pretraining.draw(3, 5) != pretraining.draw(3, 6) != pretraining.draw(4, 6)
    assert len({one.prompt.text for one in pretraining.draw(0, 0)}) == 4
    assert len(Pretraining(TEXTS, 1.0, 99).draw(0, 0)) == len(TEXTS)


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "lora"), [("ppo", None), ("grpo", None), ("trpo", None), ("ppo", 2)])
def test_resume_is_bit_exact(name: str, lora: int | None, tmp_path: Path) -> None:
    pretraining = Pretraining(TEXTS, 2.0, 4)
    whole = make(name, pretraining, policy_kwargs={"lora": lora} if lora else None, n_epochs=2)
    whole.learn(1)  # one iteration
    whole.save(tmp_path / "half")
    (tmp_path / "half").rename(tmp_path / "moved")
    resumed = type(whole).load(tmp_path / "moved", make_env(), pretraining=pretraining)
    for algorithm in (whole, resumed):
        algorithm.learn(60, reset_num_timesteps=False)
    assert whole.iteration == resumed.iteration >= 2
    assert equal(parameters(whole), parameters(resumed))


def test_a_run_goes_on_with_its_own_text(tmp_path: Path) -> None:
    make("ppo", Pretraining(TEXTS, 2.0, 4)).save(tmp_path / "with")
    make("ppo", None).save(tmp_path / "without")
    with pytest.raises(ValueError, match=r"the checkpoint has one and this call has none; pass .*pretraining="):
        PPO.load(tmp_path / "with", make_env())
    with pytest.raises(ValueError, match="this call has one and the checkpoint has none"):
        PPO.load(tmp_path / "without", make_env(), pretraining=Pretraining(TEXTS))
    with pytest.raises(ValueError, match=r"coefficient: 2\.0 there, 1\.0 here"):
        PPO.load(tmp_path / "with", make_env(), pretraining=Pretraining(TEXTS, 1.0, 4))
    with pytest.raises(ValueError, match="digest"):
        PPO.load(tmp_path / "with", make_env(), pretraining=Pretraining(TEXTS[::-1], 2.0, 4))


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": ()}, "there is no text"),
        ({"coefficient": -1.0}, "coefficient=-1"),
        ({"coefficient": float("nan")}, "coefficient=nan"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pretraining(**{"texts": TEXTS, **arguments})


def test_texts_that_cannot_be_learned() -> None:
    tokenizer = word_tokenizer()
    with pytest.raises(ValueError, match="corpus has no text"):
        encode_texts([], tokenizer, 1, 8, "corpus")
    with pytest.raises(ValueError, match=r"corpus, row 2: .* no token to predict"):
        encode_texts(["w1 w2", "w1"], tokenizer, None, 8, "corpus")
    long = encode_texts([" ".join(["w1"] * 70)], tokenizer, 1, 80)
    with pytest.raises(ValueError, match="pretraining text 1 has 71 tokens, more than the model's context of 64"):
        make("ppo", Pretraining(long))
    foreign = encode_texts(["w1 w2", "w60 w61"], word_tokenizer(80), 1, 8)
    with pytest.raises(ValueError, match="pretraining text 2 holds tokens beyond the 32"):
        make("ppo", Pretraining(foreign))

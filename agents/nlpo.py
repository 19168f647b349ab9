"""Natural language policy optimisation (Ramamurthy 2022, arXiv 2210.01241): PPO under a learned action mask."""

from __future__ import annotations

from dataclasses import replace

from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import nn

from textgym.agents.loop.acting import MASK_MODEL
from textgym.agents.loop.checks import restricts_actions
from textgym.agents.policy.lm_policy import Session
from textgym.agents.ppo import PPO
from textgym.agents.settings import NLPOSettings
from textgym.lm.behaviour import NucleusMask


class NLPO(PPO):
    """Natural language policy optimisation (Ramamurthy 2022, arXiv 2210.01241): PPO under a nucleus mask.

    The mask model π_m is a copy of the policy, refreshed before iterations 0, u, 2u, … It restricts the tokens that may
    be chosen in state s to

        M(s) = nucleus_p(π_m(·|s)) ∪ top_j(π_m(·|s)) ∪ end tokens

    and the policy is renormalised over them: π(v|s) ∝ exp(logit_v) for v in M(s), 0 elsewhere. Everything else is PPO.
    An iteration samples one response to each of ``episodes_per_iteration`` prompts from π_old; ``n_epochs`` shuffled
    passes take a gradient step on L for each minibatch of ``minibatch_size`` responses:

        r_t  = score_t − β·(log π_old(y_t|s_t) − log π_ref(y_t|s_t))
        δ_t  = r_t + V_old(s_{t+1}) − V_old(s_t)
        Â_t  = Σ_l λ^l·δ_{t+l}
        G_t  = Â_t + V_old(s_t)
        A_t  = (Â_t − mean(Â)) / (std(Â) + 1e-8)
        ρ_t  = π(y_t|s_t) / π_old(y_t|s_t)
        V'_t = V_old(s_t) + clip(V(s_t) − V_old(s_t), −ε_V, ε_V)

        L    = mean_t[ −min(ρ_t·A_t, clip(ρ_t, 1 − ε, 1 + ε')·A_t) ]
             + c_V·mean_t[ ½·max((V(s_t) − G_t)², (V'_t − G_t)²) ]
             − c_H·mean_t[ H(π(·|s_t)) ]

    - p is ``top_mask``, j is ``min_tokens_to_keep``, u is ``target_update``. nucleus_p is the smallest set of most
      probable tokens with a mass of p.
    - The other symbols and the optimiser are those of :class:`textgym.agents.ppo.PPO`. π_ref is not restricted by the
      mask, so that the KL also prices the restriction.
    - M(s) is stored with the episodes: ρ_t compares two policies under the same mask.

    Sampling, evaluation and exact scoring all apply the mask.

    Differences: the authors' published code refreshes its mask model but never uses it. Here end tokens are always
    kept, or a response could not end; the end tokens of turns likewise, unless ``max_turn_tokens`` ends turns.
    """

    settings: NLPOSettings
    settings_class = NLPOSettings

    @property
    def mask(self) -> NucleusMask:
        """The mask and its model."""
        assert self.policy.mask is not None
        return self.policy.mask

    def check_env(self, env: VecEnv) -> None:
        """Check what every algorithm checks, and that the task has no action masks of its own."""
        super().check_env(env)
        if restricts_actions(env):
            raise ValueError(
                "NLPO cannot be combined with a task that restricts actions; use PPO, or a task without action masks"
            )

    def new_session(self) -> Session:
        """Return a session of the policy under the mask, which the first call makes."""
        if self.policy.mask is None:
            mask = NucleusMask(self.policy.lm, self.settings.top_mask, self.settings.min_tokens_to_keep)
            self.policy.behaviour = replace(self.policy.behaviour, mask=mask)
        if self.env is not None:  # a loaded algorithm may get its environment later
            self.mask.turn_end_ids = getattr(self._env_attribute("mdp", None), "needed_turn_ends", ())
        return super().new_session()

    def begin_iteration(self) -> None:
        """Refresh the mask model every ``target_update`` iterations."""
        if self.iteration % self.settings.target_update == 0:
            self.mask.refresh(self.policy.lm)

    def extra_modules(self) -> dict[str, nn.Module]:
        """Return the mask model, which a checkpoint must keep."""
        return {MASK_MODEL: self.mask.model}

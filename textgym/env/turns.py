"""Mechanics of turns: what a world is told, and what its reply adds to an episode.

Pure functions of one episode, which the environment and the exact optimum share, so that the two cannot disagree. A
*response* is every token after the prompt, the policy's own ones and the world's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from textgym.env.mdp import TokenMDP
from textgym.tokenization import decode_response
from textgym.types import Completion, FinishReason, Prompt
from textgym.worlds.glue import Glue
from textgym.worlds.world import Reply, State, World, begin_episodes, role_of


@dataclass(frozen=True)
class Conversation:
    """An episode's turns up to the present one.

    Attributes:
        prompt: the episode's prompt.
        state: the world's state.
        begun: number of response tokens before the present turn.
        messages: the messages so far, of the policy and of the world.
        rewards: reward of each answered turn.
    """

    prompt: Prompt
    state: State
    begun: int = 0
    messages: tuple[dict[str, str], ...] = ()
    rewards: tuple[float, ...] = ()


class Answered(NamedTuple):
    """An episode after a reply.

    Attributes:
        conversation: with the turn and the reply.
        appended: tokens to write behind the turn: the reply with its glue; empty if the episode has ended.
        finish_reason: ``"stop"`` if the world ended the episode, ``"length"`` if the reply leaves no column for a
            further token, None if it goes on.
    """

    conversation: Conversation
    appended: tuple[int, ...]
    finish_reason: FinishReason | None


def begin(mdp: TokenMDP, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Conversation]:
    """Begin ``n`` episodes in the task's world.

    Args:
        mdp: the task.
        prompts: ``n`` prompts.
        seeds: ``n`` values of ``episode_seed``.

    Raises:
        textgym.worlds.WorldError: a mistake in the world.
    """
    states = begin_episodes(world_of(mdp), list(prompts), list(seeds))
    return [Conversation(prompt, state) for prompt, state in zip(prompts, states, strict=True)]


def world_of(mdp: TokenMDP) -> World:
    """Return the world of a task that has one."""
    assert mdp.world is not None, "only tasks with a world have turns"
    return mdp.world


def ends_turn(mdp: TokenMDP, token: int, length: int) -> bool:
    """Return True if a turn of ``length`` tokens ends with ``token``, its last one."""
    return token in mdp.turn_end_ids or length == mdp.max_turn_tokens


def present_turn(mdp: TokenMDP, conversation: Conversation, response: Sequence[int]) -> Completion:
    """Return the present turn as the world sees it.

    Args:
        mdp: the task.
        conversation: the turns before.
        response: all response tokens, the turn's last one included.
    """
    ids = tuple(response[conversation.begun :])
    before = [*conversation.prompt.ids, *response[: conversation.begun]]
    ends = (*mdp.end_token_ids, *mdp.turn_end_ids)
    text = decode_response(mdp.tokenizer, before, ids, ends, mdp.skip_special_tokens)
    return Completion(text, ids, "stop" if ids and ids[-1] in ends else "length")


def answered(
    mdp: TokenMDP, conversation: Conversation, turn: Completion, length: int, state: State, reply: Reply
) -> Answered:
    """Return the episode after a reply.

    Args:
        mdp: the task.
        conversation: the turns before.
        turn: the turn that was answered.
        length: number of response tokens up to its end.
        state: the world's state after the reply.
        reply: the reply.
    """
    says = reply.says if isinstance(reply.says, str) else str(mdp.tokenizer.decode(list(reply.says)))
    role = role_of(world_of(mdp))
    messages = (*conversation.messages, _message("assistant", turn.text), _message(role, says))
    after = replace(conversation, state=state, messages=messages, rewards=(*conversation.rewards, reply.reward))
    ended = replace(after, begun=length)  # nothing follows the turn
    if reply.done:
        return Answered(ended, (), "stop")
    assert isinstance(mdp.glue, Glue), "a task with a world has glue"
    appended = mdp.glue.around(mdp.tokenizer, reply.says, closed=turn.finish_reason == "stop")
    # One column must be left, in which the policy can go on.
    if length + len(appended) >= mdp.max_new_tokens:
        return Answered(ended, (), "length")
    return Answered(replace(after, begun=length + len(appended)), appended, None)


def messages_at_end(mdp: TokenMDP, conversation: Conversation, response: Sequence[int]) -> list[dict[str, str]]:
    """Return an ended episode's messages, with the turn that an end token or the horizon cut short, if there is one."""
    messages = list(conversation.messages)
    if len(response) > conversation.begun:
        messages.append(_message("assistant", present_turn(mdp, conversation, response).text))
    return messages


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}

"""Flags that several commands have, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from tyro.conf import arg

from textgym.types import Service, SpecialTokens, Truncation

# --- a run -----------------------------------------------------------------------------------------------------

Seed: TypeAlias = Annotated[int, arg(help="Random seed.")]
Overwrite: TypeAlias = Annotated[bool, arg(help="Replace the run in 'out'.")]
Resume: TypeAlias = Annotated[bool, arg(help="Continue the run in 'out' from its last checkpoint or whole epoch.")]
Log: TypeAlias = Annotated[
    tuple[Service, ...],
    arg(
        help="Services that receive the metrics during the run, each through its own client: 'tensorboard', 'wandb', "
        "'trackio', separated by spaces. See docs/watching.md."
    ),
]
EvalEpisodes: TypeAlias = Annotated[
    int, arg(help="Responses to validation prompts in each evaluation: before training, during it, and after.")
]

# --- models and tasks ------------------------------------------------------------------------------------------

Model: TypeAlias = Annotated[
    str | None,
    arg(help="Language model with its tokenizer: a directory, a run or a hub id. Default: the task's base model."),
]
TaskParameters: TypeAlias = Annotated[
    dict[str, int | float | str],
    arg(
        help="Parameters of the task, such as 'folder DIR' of textgym/CommonGen-v0. A task's parameter 'model' is "
        "given by --model."
    ),
]
MaxPromptLength: TypeAlias = Annotated[
    int | None, arg(help="Maximum prompt length P, in tokens. Default: the task's, or that of the longest prompt.")
]
MaxNewTokens: TypeAlias = Annotated[
    int | None, arg(help="Maximum response length T, in tokens. Default: the task's, or 48.")
]

# --- data ------------------------------------------------------------------------------------------------------

Truncated: TypeAlias = Annotated[
    Truncation,
    arg(
        help="Treatment of rows with more tokens than fit, be it into P or into the model: 'error' (count them as bad "
        "rows), 'left' (drop the beginning of the prompt; completions stay whole) or 'drop' (leave them out and count "
        "them)."
    ),
]
SkipBad: TypeAlias = Annotated[
    int,
    arg(
        help="Maximum number of bad rows to leave out: malformed, blank, with equal completions, or too long. "
        "'skipped.jsonl' lists them. With more of them, nothing is trained."
    ),
]
ReadTokens: TypeAlias = Annotated[
    SpecialTokens,
    arg(
        help="Reading of special-token strings, such as '<eos>', in the data: as 'text', or 'parse' for special "
        "tokens, where a chat template has rendered the prompts already."
    ),
]
SkipTokens: TypeAlias = Annotated[
    bool,
    arg(
        help="Leave all special tokens out of completions, as TRL does, rather than only end, padding and start tokens."
    ),
]
Demonstrations: TypeAlias = Annotated[
    Path | None,
    arg(help="Demonstrations, in a file like the data of 'textgym sft'. Default: the task's reference texts."),
]
DemonstrationCount: TypeAlias = Annotated[
    int | None, arg(help="Number of demonstrations to learn from, drawn by the seed. Default: all.")
]

# --- reinforcement ---------------------------------------------------------------------------------------------

MissingEndScore: TypeAlias = Annotated[
    float | None,
    arg(help="Score that replaces the reward of a response without an end token. Published: -1 (Ziegler 2019)."),
]
PretrainingText: TypeAlias = Annotated[
    str | None,
    arg(
        help="Text learned in every update beside the reward, against forgetting (PPO-ptx, with any algorithm): a file "
        "with the column 'text', a .txt with one text a line, 'task' for the task's references, or 'mini' for the "
        "pretraining text of the mini tasks' base model. The loss on held-out text, and on the references of the other "
        "mini tasks, is measured before and after."
    ),
]
PtxCoef: TypeAlias = Annotated[
    float | None,
    arg(
        help="Weight γ of the pretraining text's loss per token; 0 only measures it. Default: 0.1. Published: 27.8 "
        "(Ouyang 2022)."
    ),
]
PtxBatchSize: TypeAlias = Annotated[int | None, arg(help="Pretraining texts per update. Default: 32.")]
CheckpointEvery: TypeAlias = Annotated[
    int, arg(help="Iterations between checkpoints; 'checkpoint' is the newest, from which --resume continues.")
]
EvalEvery: TypeAlias = Annotated[
    int | None,
    arg(
        help="Iterations between evaluations on validation prompts, which change no other number. Default: only before "
        "and after training."
    ),
]
StopScore: TypeAlias = Annotated[
    float | None, arg(help="Stop once the mean score of an evaluation is at least this. Needs 'eval_every'.")
]
StopKL: TypeAlias = Annotated[
    float | None,
    arg(
        help="Stop once the mean KL of an evaluation to the reference exceeds this, in nats per response. Needs "
        "'eval_every'."
    ),
]
StopPatience: TypeAlias = Annotated[
    int | None,
    arg(
        help="Stop after this many evaluations in a row without a new best, by the metric of 'keep_best' or else by "
        "score. Needs 'eval_every'."
    ),
]

"""Tasks, each in one file.

The table maps a name to the function that makes the task, which is imported on first use.
"""

TASKS: dict[str, str] = {
    "Reviews": "textgym.tasks.mini.reviews:reviews",
    "Concepts": "textgym.tasks.mini.concepts:concepts",
    "Summaries": "textgym.tasks.mini.summaries:summaries",
    "Captions": "textgym.tasks.mini.captions:captions",
    "Translation": "textgym.tasks.mini.translation:translation",
    "Stories": "textgym.tasks.mini.stories:stories",
    "Dialogue": "textgym.tasks.mini.dialogue:dialogue",
    "Arithmetic": "textgym.tasks.mini.arithmetic:arithmetic",
    "Critics": "textgym.tasks.mini.critics:critics",
    "Waiter": "textgym.tasks.mini.waiter:waiter",
    "Calculator": "textgym.tasks.mini.calculator:calculator",
    "Emit": "textgym.tasks.diagnostic.bandits:emit",
    "Noise": "textgym.tasks.diagnostic.bandits:noise",
    "Scale": "textgym.tasks.diagnostic.bandits:scale",
    "Vocabulary": "textgym.tasks.diagnostic.bandits:vocabulary",
    "Needle": "textgym.tasks.diagnostic.bandits:needle",
    "Copy": "textgym.tasks.diagnostic.memory:copy",
    "Recall": "textgym.tasks.diagnostic.memory:recall",
    "Delayed": "textgym.tasks.diagnostic.credit:delayed",
    "Dense": "textgym.tasks.diagnostic.credit:dense",
    "Length": "textgym.tasks.diagnostic.credit:length",
    "Prior": "textgym.tasks.diagnostic.tradeoffs:prior",
    "Trap": "textgym.tasks.diagnostic.tradeoffs:trap",
    "Gamble": "textgym.tasks.diagnostic.uncertainty:gamble",
    "Bisect": "textgym.tasks.diagnostic.uncertainty:bisect",
    "Clarify": "textgym.tasks.diagnostic.uncertainty:clarify",
    "Lookup": "textgym.tasks.diagnostic.replies:lookup",
    "Relay": "textgym.tasks.diagnostic.replies:relay",
    "Echo": "textgym.tasks.diagnostic.replies:echo",
    "Candidates": "textgym.tasks.diagnostic.candidates:candidates",
    "Ladder": "textgym.tasks.diagnostic.exploration:ladder",
    "Decoy": "textgym.tasks.diagnostic.exploration:decoy",
    "Drift": "textgym.tasks.diagnostic.exploration:drift",
    "Ties": "textgym.tasks.diagnostic.groups:ties",
    "Brevity": "textgym.tasks.diagnostic.groups:brevity",
    "Pareto": "textgym.tasks.diagnostic.pareto:pareto",
}

LATER_VERSIONS: dict[str, str] = {
    "Copy-v1": "textgym.tasks.diagnostic.v1.memory:copy_v1",
    "Recall-v1": "textgym.tasks.diagnostic.v1.memory:recall_v1",
    "Needle-v1": "textgym.tasks.diagnostic.v1.bandits:needle_v1",
    "Vocabulary-v1": "textgym.tasks.diagnostic.v1.bandits:vocabulary_v1",
    "Noise-v1": "textgym.tasks.diagnostic.v1.bandits:noise_v1",
    "Scale-v1": "textgym.tasks.diagnostic.v1.bandits:scale_v1",
    "Dense-v1": "textgym.tasks.diagnostic.v1.credit:dense_v1",
    "Length-v1": "textgym.tasks.diagnostic.v1.credit:length_v1",
    "Prior-v1": "textgym.tasks.diagnostic.v1.tradeoffs:prior_v1",
    "Trap-v1": "textgym.tasks.diagnostic.v1.tradeoffs:trap_v1",
}
"""Tasks of a later version, by a name that ends in it. Those of ``TASKS`` are version 0, and stay as they are."""

PACKAGES: dict[str, str] = {
    "ReasoningGym": "textgym.tasks.task:Task.from_reasoning_gym",
    "TextArena": "textgym.tasks.task:Task.from_textarena",
}
"""Tasks of other packages, by the same rule. They need parameters: a data set or a game, and a model."""

REAL: dict[str, str] = {
    "IMDB": "textgym.tasks.real.published:IMDB",
    "CommonGen": "textgym.tasks.real.published:COMMON_GEN",
    "CNNDailyMail": "textgym.tasks.real.published:CNN_DAILY_MAIL",
    "ToTTo": "textgym.tasks.real.published:TOTTO",
    "IWSLT2017": "textgym.tasks.real.published:IWSLT",
    "NarrativeQA": "textgym.tasks.real.published:NARRATIVE_QA",
    "DailyDialog": "textgym.tasks.real.published:DAILY_DIALOG",
    "TLDR": "textgym.tasks.real.published:TLDR",
    "HH": "textgym.tasks.real.published:HH",
    "GSM8K": "textgym.tasks.real.published:GSM8K",
    "Sentiment": "textgym.tasks.real.published:SENTIMENT",
    "Descriptiveness": "textgym.tasks.real.published:DESCRIPTIVENESS",
}
"""Tasks on published data, by the same rule. They need a model, and the hub or a folder with the data."""

MINI_TURNS: tuple[str, ...] = ("Waiter", "Calculator")
"""Tasks in English in which another side replies. They share a base model of their own."""

MINI: tuple[str, ...] = tuple(name for name, maker in TASKS.items() if ".mini." in maker and name not in MINI_TURNS)
"""Tasks in English, from our own grammars, with a single turn."""

MINI_SUITE: tuple[str, ...] = tuple(name for name in MINI if name != "Reviews")
"""Those of them that are scored: no constant text solves them. One favourable sentence solves Reviews."""

DIAGNOSTIC: tuple[str, ...] = tuple(name for name, maker in TASKS.items() if ".diagnostic." in maker)
"""Tasks whose optimum is known exactly."""

DIAGNOSTIC_TURNS: tuple[str, ...] = ("Gamble", "Bisect", "Clarify", "Lookup", "Relay", "Echo", "Candidates")
"""Those of them in which another side replies."""

DIAGNOSTIC_V1: tuple[str, ...] = tuple(name for name, maker in LATER_VERSIONS.items() if ".diagnostic." in maker)
"""Diagnostic tasks of version 1: prompts are held out, and a policy of one response per prompt falls short."""

DIAGNOSTIC_NEW: tuple[str, ...] = ("Ladder", "Decoy", "Drift", "Ties", "Brevity", "Pareto")
"""Diagnostic tasks without an earlier version that are scored: a seed draws their instance and held-out prompts."""

DIAGNOSTIC_SUITE: tuple[str, ...] = (*DIAGNOSTIC_V1, *DIAGNOSTIC_NEW)
"""All diagnostic tasks that are scored."""

NEEDS_PROMPT: tuple[str, ...] = DIAGNOSTIC_V1
"""Tasks that claim to need their prompt: no policy that does not read it has a score of 0.8."""


def task_id(name: str) -> str:
    """Return the id of a shipped task by its name: ``"textgym/Copy-v0"`` for Copy, that of Copy-v1 has its version."""
    return f"textgym/{name}" if name in LATER_VERSIONS else f"textgym/{name}-v0"

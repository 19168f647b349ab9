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
    "Ties": "textgym.tasks.diagnostic.groups:ties",
    "Brevity": "textgym.tasks.diagnostic.groups:brevity",
    "Pareto": "textgym.tasks.diagnostic.pareto:pareto",
}

PACKAGES: dict[str, str] = {
    "ReasoningGym": "textgym.tasks.task:Task.from_reasoning_gym",
    "TextArena": "textgym.tasks.task:Task.from_textarena",
}
"""Tasks of other packages, by the same rule. They need parameters: a data set or a game, and a model."""

MINI_TURNS: tuple[str, ...] = ("Waiter", "Calculator")
"""Tasks in English in which another side replies. They share a base model of their own."""

MINI: tuple[str, ...] = tuple(name for name, maker in TASKS.items() if ".mini." in maker and name not in MINI_TURNS)
"""Tasks in English, from our own grammars, with a single turn."""

DIAGNOSTIC: tuple[str, ...] = tuple(name for name, maker in TASKS.items() if ".diagnostic." in maker)
"""Tasks whose optimum is known exactly."""

DIAGNOSTIC_TURNS: tuple[str, ...] = ("Gamble", "Bisect", "Clarify", "Lookup", "Relay", "Echo", "Candidates")
"""Those of them in which another side replies."""

DIAGNOSTIC_NEW: tuple[str, ...] = ("Ladder", "Decoy", "Ties", "Brevity", "Pareto")
"""Those of them whose instance a seed draws, with held-out prompts in the split ``test``."""

"""Real tasks, a row each: data, construction of prompts, sizes, reward and metrics as they were published.

P, T, rewards and metrics of the first seven are those of RL4LMs' configuration files (GRUE, Ramamurthy et al. 2022); of
TL;DR those of Stiennon et al. (2020); of HH those of Bai et al. (2022), whose context of 1,024 tokens P and T share; of
the style tasks those of Ziegler et al. (2019). GSM8K's T is ours.
"""

from __future__ import annotations

from textgym.tasks.real import constructions, fitting
from textgym.tasks.real.data import Source
from textgym.tasks.real.real_task import RealTask

OFFICIAL = {"train": "train", "validation": "validation", "test": "test"}
TWO = {"train": "train", "test": "test"}
OVERLAP = ("meteor", "rouge", "bleu", "bert_score")
"""Metrics that most files of GRUE list."""

IMDB = RealTask(
    name="IMDB",
    description="Continue a film review so that it is favourable.",
    source=Source(("text", "label"), TWO, "stanfordnlp/imdb", "plain_text"),
    examples=constructions.half_of_review,
    fit=fitting.keep_end,
    max_prompt_length=64,
    max_new_tokens=48,
    gold=None,
    gold_needed="pass gold='clf:DIR,label=POSITIVE' with a sentiment classifier and its label (published: "
    "lvwerra/distilbert-imdb)",
    reward="learned_reward(model_name=lvwerra/distilbert-imdb, label_ix=1)",
    metrics=("learned_reward", "causal_perplexity", "diversity"),
    held_out=0.2,
    test_size=5_000,
)

COMMON_GEN = RealTask(
    name="CommonGen",
    description="Write a sentence about an everyday scene that uses all the concepts of the prompt.",
    source=Source(
        ("concept_set_id", "concepts", "target", "references"),
        OFFICIAL,
        "GEM/common_gen",
        "common_gen",
        converted=True,
    ),
    examples=constructions.concepts,
    fit=fitting.keep_beginning,
    max_prompt_length=20,
    max_new_tokens=20,
    gold="meteor",
    reward="meteor(shaping_fn=common_gen_repeat_penalty)",
    metrics=(*OVERLAP, "cider", "spice", "diversity"),
)

CNN_DAILY_MAIL = RealTask(
    name="CNNDailyMail",
    description="Summarize a news article in a few sentences.",
    source=Source(("article", "highlights"), OFFICIAL, "abisee/cnn_dailymail", "3.0.0"),
    examples=constructions.article,
    fit=fitting.keep_beginning,
    max_prompt_length=512,
    max_new_tokens=100,
    gold="meteor",
    reward="meteor",
    metrics=(*OVERLAP, "diversity"),
)

TOTTO = RealTask(
    name="ToTTo",
    description="Say in a sentence what the highlighted cells of a table hold.",
    source=Source(
        (
            "table",
            "table_page_title",
            "table_section_title",
            "highlighted_cells",
            "sentence_annotations.final_sentence",
        ),
        OFFICIAL,
        "google-research-datasets/totto",
        converted=True,
    ),
    examples=constructions.highlighted_cells,
    fit=fitting.keep_end,
    max_prompt_length=512,
    max_new_tokens=50,
    gold="meteor",
    reward="meteor",
    metrics=("meteor", "parent_totto", "rouge(use_single_ref=False)", "bleu_totto", "bert_score", "diversity"),
)

IWSLT = RealTask(
    name="IWSLT2017",
    description="Translate a sentence of a talk from English into German.",
    source=Source(("translation.en", "translation.de"), OFFICIAL, "IWSLT/iwslt2017", "iwslt2017-de-en", converted=True),
    examples=constructions.translation,
    fit=fitting.keep_beginning,
    max_prompt_length=128,
    max_new_tokens=128,
    gold="ter",
    reward="ter",
    metrics=(*OVERLAP, "sacre_bleu(tokenize=intl)", "ter", "chrf", "diversity"),
)

NARRATIVE_QA = RealTask(
    name="NarrativeQA",
    description="Answer a question about a story whose summary is given.",
    source=Source(("document.summary.text", "question.text", "answers.text"), OFFICIAL, "deepmind/narrativeqa"),
    examples=constructions.question,
    fit=fitting.keep_beginning,
    max_prompt_length=512,
    max_new_tokens=50,
    gold="rouge,kind=Lmax",
    reward="rouge_l_max(alpha=0.5, weight_factor=1.2, stemming=True, apply_best=True)",
    metrics=("meteor", "rouge(use_single_ref=False)", "bleu", "bert_score", "rouge_l_max", "diversity"),
)

DAILY_DIALOG = RealTask(
    name="DailyDialog",
    description="Reply in a daily conversation, with the intent of the reply that was given.",
    source=Source(("dialog", "act", "emotion"), OFFICIAL, "li2017dailydialog/daily_dialog", converted=True),
    examples=constructions.utterances,
    fit=fitting.keep_end,
    max_prompt_length=128,
    max_new_tokens=20,
    gold=None,
    gold_needed="pass gold='FILE.py:function', which compares a reply's intent, by a classifier of yours, with the "
    "column intent (published: 0.75 times their agreement plus 0.25 METEOR); gold='meteor' is the second part alone",
    reward="intent_accuracy(intent_coeff=0.75, auto_coeff=0.25)",
    metrics=("intent_accuracy", "causal_perplexity", "diversity", *OVERLAP, "sacre_bleu(tokenize=intl)"),
    lead="",  # the data have their own spaces
)

TLDR = RealTask(
    name="TLDR",
    description="Summarize a post of Reddit in a sentence or two.",
    source=Source(
        ("subreddit", "title", "post", "summary"), OFFICIAL, "vwxyzjn/summarize_from_feedback_tldr_3_filtered"
    ),
    examples=constructions.post,
    fit=fitting.Shortened(constructions.shorter_post),
    max_prompt_length=512,
    max_new_tokens=48,
    gold=None,
    gold_needed="pass gold='rm:DIR' with a reward model of summaries (textgym reward-model)",
    reward="a reward model of 64,832 comparisons, which scores a text without an end -1",
    metrics=("reward model", "human preference over the reference", "rouge"),
)

HH = RealTask(
    name="HH",
    description="Reply to a person helpfully and without harm.",
    source=Source(("chosen",), TWO, "Anthropic/hh-rlhf"),
    examples=constructions.dialogue,
    fit=fitting.Shortened(constructions.later_turns),
    max_prompt_length=896,
    max_new_tokens=128,
    gold=None,
    gold_needed="pass gold='rm:DIR' with a preference model of replies (textgym reward-model)",
    reward="a preference model's score - 0.001 KL",
    metrics=("preference model", "Elo by crowd workers"),
    held_out=0.05,
)

GSM8K = RealTask(
    name="GSM8K",
    description="Solve a word problem of grade-school mathematics: first the working, then #### and the answer.",
    source=Source(
        ("question", "answer"),
        TWO,
        "openai/gsm8k",
        "main",
        checksum="442ca4cbb66c9c8c463a57dd8acef2820012e3790d95df822969906da65f5ea1",
    ),
    examples=constructions.problem,
    fit=fitting.whole,
    max_prompt_length=None,
    max_new_tokens=400,
    gold="answer",
    reward="1 if the number after the last #### is the answer, else 0",
    metrics=("accuracy", "pass@k"),
    lead="",  # the prompt ends in a new line
)

BOOKS = Source(
    ("text",),
    TWO,
    None,
    published="https://openaipublic.blob.core.windows.net/lm-human-preferences/datasets/book_passages/ (train.jsonl, "
    'test.jsonl; a JSON text a line: write each as {"text": TEXT})',
)

SENTIMENT = RealTask(
    name="Sentiment",
    description="Continue a passage of a book with positive sentiment.",
    source=BOOKS,
    examples=constructions.passage,
    fit=fitting.sentences,
    max_prompt_length=64,
    max_new_tokens=24,
    gold=None,
    gold_needed="pass gold='clf:DIR,label=POSITIVE' with a sentiment classifier and its label, or gold='rm:DIR' with a "
    "reward model of people's choices",
    reward="a reward model of the best of 4, by people, or by a classifier of reviews",
    metrics=("reward model", "human preference"),
)

DESCRIPTIVENESS = RealTask(
    name="Descriptiveness",
    description="Continue a passage of a book with vivid description.",
    source=BOOKS,
    examples=constructions.passage,
    fit=fitting.sentences,
    max_prompt_length=64,
    max_new_tokens=24,
    gold=None,
    gold_needed="pass gold='rm:DIR' with a reward model of people's choices (textgym reward-model)",
    reward="a reward model of the best of 4, by people",
    metrics=("reward model", "human preference"),
)

"""All rewards of a text load and score without a network, and importing them is cheap."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.helpers import save_byte_model

SCRIPT = """
import socket, sys

class Refused(OSError):
    pass

def refuse(*_, **__):
    raise Refused("a socket was opened")

class Refusing(socket.socket):  # a class, as ssl derives another from it
    __init__ = refuse

socket.socket = Refusing
socket.create_connection = socket.getaddrinfo = refuse

from textgym.rewards.functions import call_rewards, Batch, reward_name
from textgym.rewards.text.answers import Answer, MathVerify
from textgym.rewards.text.form import JsonSchema
from textgym.rewards.text.naturalness import Naturalness
from textgym.rewards.text.overlap import Bleu, Chrf, ExactMatch, Meteor, Rouge, SacreBleu, Ter, TokenF1
from textgym.rewards.text.shape import DistinctN, Keywords, LengthBudget, Regex, RepeatedN

schema, model = sys.argv[1:]
rewards = [Rouge(kind) for kind in ("1", "2", "L", "Lsum", "Lmax")]
rewards += [Rouge(stem=True), Bleu(), Bleu(tokenize="intl"), Bleu(tokenize="zh"), Bleu(tokenize="char")]
rewards += [SacreBleu(), Chrf(), Chrf(2), Ter(), Meteor(), ExactMatch(), TokenF1()]
rewards += [DistinctN(), RepeatedN(), LengthBudget(9), Regex("a"), Keywords(), Keywords(stem=True)]
rewards += [JsonSchema(schema), Answer(), MathVerify(), Naturalness(model)]
texts = ["The cat sat. It slept 3 times.", "3"]
columns = {"references": [texts[0], [texts[1], "4"]], "concepts": [["cats"], "3"], "answer": ["3", "3"]}
scores = call_rewards(rewards, Batch(["p", "q"], texts, [[1], [2]], columns))
try:
    socket.socket()
except Refused:
    print(len(rewards), [round(own[0], 3) for own in scores[:-1]], scores[-1][0] < 0)
"""


def test_they_score_where_opening_a_socket_raises(tmp_path):
    """In a process of its own, so that no other test has imported or loaded anything before."""
    schema, model = tmp_path / "schema.json", save_byte_model(tmp_path / "model")
    schema.write_text(json.dumps({"type": "integer"}))
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(schema), str(model)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    overlap = [1.0] * 13 + [0.0, round(1 - 0.5 / 8**3, 3), 1.0, 1.0]
    shape = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    expected = f"27 {[*overlap, *shape, 0.0, 1.0, 1.0]} True"
    assert result.stdout.strip() == expected


def test_importing_them_loads_no_heavy_package():
    modules = ("answers", "form", "naturalness", "needs", "overlap", "shape", "wordnet")
    code = (
        f"import sys; [__import__('textgym.rewards.text.' + one) for one in {modules}]; "
        "print(sorted({'torch', 'transformers', 'nltk', 'rouge_score', 'sacrebleu', 'jsonschema', 'math_verify', "
        "'sympy'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert result.stdout.strip() == "[]"

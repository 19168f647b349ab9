"""Tokenizers: end tokens, fillers, and text from tokens; nothing changes the caller's tokenizer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import byte_tokenizer, word_tokenizer
from textgym.tokenization import (
    decode_response,
    end_token_ids,
    filler_id,
    load_tokenizer,
    render_chat,
    token_id_set,
    token_strings,
)

PAD, EOS = 0, 1


BYTES = byte_tokenizer()


# --- end tokens and fillers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ids", "expected"), [(None, ()), (3, (3,)), ([5, 2, 5], (2, 5)), ((1,), (1,))])
def test_configs_write_one_id_several_or_none(ids, expected):
    assert token_id_set(ids) == expected


def test_end_tokens_are_the_tokenizers_and_the_generation_configs():
    tokenizer = word_tokenizer()
    assert end_token_ids(tokenizer) == (EOS,)
    assert end_token_ids(tokenizer, SimpleNamespace(eos_token_id=[9, 4])) == (EOS, 4, 9)
    assert end_token_ids(tokenizer, SimpleNamespace(eos_token_id=9)) == (EOS, 9)
    assert end_token_ids(tokenizer, SimpleNamespace(eos_token_id=None)) == (EOS,)
    tokenizer.eos_token = None
    assert end_token_ids(tokenizer) == ()


@given(
    pad=st.sampled_from([None, "<pad>", "<eos>", "w3"]),
    vocabulary_size=st.integers(2, 10),
    ends=st.sets(st.integers(0, 9), max_size=9),
)
def test_the_filler_is_an_action_and_never_an_end_token(pad, vocabulary_size, ends):
    ends = {end for end in ends if end < vocabulary_size}
    if len(ends) == vocabulary_size:
        ends.pop()
    tokenizer = word_tokenizer(8)
    tokenizer.pad_token = pad
    filler = filler_id(tokenizer, sorted(ends), vocabulary_size)
    assert 0 <= filler < vocabulary_size
    assert filler not in ends
    own = tokenizer.pad_token_id
    if own is not None and own < vocabulary_size and own not in ends:
        assert filler == own
    assert tokenizer.pad_token == pad


# --- text --------------------------------------------------------------------------------------------------------


def test_a_response_is_decoded_without_the_token_that_ended_it():
    tokenizer = word_tokenizer()
    asked = [4]
    assert decode_response(tokenizer, asked, [2, 3, EOS], (EOS,)) == " w0 w1"
    assert decode_response(tokenizer, asked, [2, 3, 5], (EOS, 5)) == " w0 w1"
    assert decode_response(tokenizer, asked, [2, 5, 3], (EOS, 5)) == " w0 w3 w1"  # one in the midst did not end it
    assert decode_response(tokenizer, asked, [2, PAD, 3], (EOS,)) == " w0 w1"  # padding is no text
    assert decode_response(tokenizer, asked, [EOS], (EOS,)) == ""
    assert decode_response(tokenizer, asked, [], (EOS,)) == ""
    assert decode_response(tokenizer, [4, EOS], [2, 3, EOS], (EOS,)) == "w0 w1"  # after a closed text, one of its own


def test_tokens_show_what_they_add_to_the_text():
    tokenizer = word_tokenizer()
    assert token_strings(tokenizer, []) == []
    assert token_strings(tokenizer, [2, 3, EOS]) == ["w0", " w1", " <eos>"]
    assert token_strings(tokenizer, [2, 3], before=[4]) == [" w0", " w1"]  # after the prompt's last word


@given(text=st.text(max_size=12), cut=st.integers(0, 12))
def test_shown_tokens_join_to_the_whole_text(text, cut):
    """Where a character is made of several tokens, its last one shows it and the others show the replacement sign."""
    before, after = text[:cut], text[cut:]
    ids = [BYTES(part)["input_ids"] if part else [] for part in (before, after)]
    shown = token_strings(BYTES, ids[1], before=ids[0])
    assert len(shown) == len(after.encode("utf-8", "surrogatepass"))
    assert "".join(shown).replace("\ufffd", "") == after.replace("\ufffd", "")


def test_a_character_of_several_tokens():
    ids = BYTES("a€b")["input_ids"]
    assert len(ids) == 5
    shown = token_strings(BYTES, ids)
    assert shown[0] == "a"
    assert shown[3:] == ["€", "b"]
    assert set("".join(shown[1:3])) == {"\ufffd"}


def test_conversations_without_a_template_are_plain_turns():
    messages = [{"role": "system", "content": "A"}, {"role": "user", "content": "B"}, {"role": "tool", "content": "C"}]
    assert render_chat(word_tokenizer(), messages) == "System: A\n\nHuman: B\n\ntool: C\n\nAssistant:"


# --- loading -----------------------------------------------------------------------------------------------------


def test_a_saved_tokenizer_is_loaded(tmp_path):
    word_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("w0 w3")["input_ids"] == [2, 5]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD, EOS)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no tokenizer next to the weights.*tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path)


def test_gpt2_has_no_pad_and_gets_a_filler_of_its_own(assets):
    tokenizer = load_tokenizer(assets / "models" / "gpt2-tokenizer-only")
    ends = end_token_ids(tokenizer)
    assert ends == (50256,)
    assert filler_id(tokenizer, ends, len(tokenizer)) not in ends
    assert tokenizer.pad_token is None
    ids = tokenizer(" films — naïve 🎬!")["input_ids"]
    assert "".join(token_strings(tokenizer, ids)).replace("\ufffd", "") == " films — naïve 🎬!"

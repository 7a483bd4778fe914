"""BPE training, the tokenizer directory, and the two encoders: lossless, identical, blind to control tokens."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dataprep.text.column import TextColumn
from dataprep.tokenizer.bpe_training import save_tokenizer, train_bpe
from dataprep.tokenizer.compiled_bpe import MAX_PRE_TOKEN_BYTES, bpe_encoder
from dataprep.tokenizer.encoders import (
    CompiledEncoder,
    Encoder,
    HuggingFaceEncoder,
    TiktokenEncoder,
    byte_level_bpe,
    fastest_encoder,
    tiktoken_encoding,
)
from dataprep.tokenizer.special_tokens import SpecialTokens
from dataprep.tokenizer.stage import fertility, sample_texts
from tests.unit.dataprep.small_documents import write_documents

TEXTS = [f"The {n}th house on the hill isn't {n * 37} years old.\n\n  Its walls are white." for n in range(200)]
ODD_TEXTS = [
    "",
    " ",
    "<|im_end|>",
    "a<|im_end|>b <|endoftext|>\n<|im_start|>assistant\n",
    "Größe 漢字 かな ไทย 🙂👩‍👩‍👧 \u200b\ufeff",
    "don't DON'T we'll\t\ttabs \r\n\r\n   12345 3.14159 a_b-c/d",
    "x" * 5000,
    "\n" * 300 + " " * 300,
    "\x00\x01\x7f",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, vocab_size=360, min_frequency=2, special_tokens=SpecialTokens())


@pytest.fixture(scope="module")
def loaded(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, directory, special_tokens=SpecialTokens())
    return AutoTokenizer.from_pretrained(directory)


def test_training_does_not_depend_on_the_order_of_the_texts(tokenizer: Tokenizer) -> None:
    again = train_bpe(reversed(TEXTS), vocab_size=360, min_frequency=2, special_tokens=SpecialTokens())
    assert again.to_str() == tokenizer.to_str()


def test_the_vocabulary_is_bytes_then_merges_then_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 360
    assert [tokenizer.token_to_id(t) for t in SpecialTokens().in_order()] == [356, 357, 358, 359]
    assert sorted(tokenizer.get_vocab().values()) == list(range(360))


def test_a_text_without_frequent_pairs_gives_a_smaller_vocabulary() -> None:
    tiny = train_bpe(["abc"], vocab_size=1000, min_frequency=2, special_tokens=SpecialTokens())
    assert tiny.get_vocab_size() == 260


def column(texts: Sequence[str]) -> TextColumn:
    return TextColumn(pa.array(texts, pa.large_string()))


def all_encoders(tokenizer: Tokenizer) -> list[Encoder]:
    own, parts = HuggingFaceEncoder(tokenizer), byte_level_bpe(tokenizer)
    assert parts is not None
    compiled, encoding = bpe_encoder(parts.vocab, parts.merges), tiktoken_encoding(parts)
    assert compiled is not None
    assert encoding is not None
    return [own, TiktokenEncoder(encoding, own, num_threads=1), CompiledEncoder(compiled, own)]


def test_all_encoders_agree_and_decode_to_the_text(tokenizer: Tokenizer) -> None:
    texts = TEXTS + ODD_TEXTS
    own, *others = (list(encoder.encode(column(texts))) for encoder in all_encoders(tokenizer))
    for text, expected, *found in zip(texts, own, *others, strict=True):
        assert all(np.array_equal(ids, expected) for ids in found)
        assert tokenizer.decode(expected.tolist(), skip_special_tokens=False) == text


def test_the_compiled_encoder_cuts_random_characters_as_the_library_does(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    hostile = list("sStTmMdDrReEvVlLſKab1２٣½Ⅷ.,-_ß漢ไ🙂\u0301\u200d\x00\U0010fffd\U000e0041")
    hostile += 12 * ["'"] + 3 * list(" \t\r\n\v\x85\u00a0\u2028\u3000")
    texts = ["".join(rng.choice(hostile, rng.integers(1, 40))) for _ in range(5000)]
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for count in (0x250, 0x3000, 0x20000, len(codes)):
        texts += ["".join(map(chr, rng.choice(codes[:count], 60))) for _ in range(300)]
    own, _, compiled = all_encoders(tokenizer)
    expected, found = own.encode(column(texts)), compiled.encode(column(texts))
    wrong = [text for text, a, b in zip(texts, expected, found, strict=True) if not np.array_equal(a, b)]
    assert wrong == []
    again = compiled.encode(column(texts))
    assert np.array_equal(again.ids_T, found.ids_T), "from its cache too"


def test_text_never_makes_a_control_token(tokenizer: Tokenizer) -> None:
    control = {tokenizer.token_to_id(token) for token in SpecialTokens().in_order()}
    assert control & set(tokenizer.encode(ODD_TEXTS[3]).ids), "by default the library does make them"
    for encoder in all_encoders(tokenizer):
        assert not control & set(encoder.encode(column(ODD_TEXTS)).ids_T.tolist())


def test_the_compiled_encoder_is_taken_and_leaves_long_pre_tokens_to_the_library(tokenizer: Tokenizer) -> None:
    encoder = fastest_encoder(tokenizer, column(TEXTS), num_threads=1)
    assert encoder.name == "compiled"
    texts = column(
        ["before", "a" * (MAX_PRE_TOKEN_BYTES + 1), "between", "b" * MAX_PRE_TOKEN_BYTES, "a" + " " * 100_000 + "b"]
    )
    expected = HuggingFaceEncoder(tokenizer).encode(texts)
    for found, ids in zip(encoder.encode(texts), expected, strict=True):
        assert np.array_equal(found, ids)


def test_tiktoken_survives_what_overflows_its_stack(tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    own, tiktoken, _ = all_encoders(tokenizer)
    texts = column(["before", "a" + " " * 1_000_000 + "b", "after"])
    for ids, expected in zip(tiktoken.encode(texts), own.encode(texts), strict=True):
        assert np.array_equal(ids, expected)
    capfd.readouterr()  # the library's report of the overflow


def test_a_slice_of_a_column_is_encoded_by_itself(tokenizer: Tokenizer) -> None:
    whole = pa.array(TEXTS, pa.large_string())
    for encoder in all_encoders(tokenizer):
        part, alone = encoder.encode(TextColumn(whole[50:60])), encoder.encode(column(TEXTS[50:60]))
        assert np.array_equal(part.ids_T, alone.ids_T)
        assert np.array_equal(part.offsets, alone.offsets)


def test_tokenizers_with_other_parts_are_encoded_by_their_own_library(tokenizer: Tokenizer) -> None:
    normalised, plain_word = (Tokenizer.from_str(tokenizer.to_str()) for _ in range(2))
    normalised.normalizer = normalizers.NFC()
    plain_word.add_tokens(["hill"])
    words = Tokenizer(models.WordLevel(unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["?"]))
    for other in (normalised, plain_word, words):
        assert byte_level_bpe(other) is None
        assert fastest_encoder(other, column(TEXTS), num_threads=1).name == "tokenizers"


def test_gpt2s_own_pre_tokenizer_is_known_to_tiktoken() -> None:
    gpt2 = Tokenizer(models.BPE())
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt2.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    assert fastest_encoder(gpt2, column(TEXTS + ODD_TEXTS), num_threads=1).name == "tiktoken"


def test_the_directory_loads_with_its_control_tokens(loaded: PreTrainedTokenizerFast) -> None:
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|endoftext|>", "<|im_end|>", "<|pad|>")
    assert len(loaded) == 360
    assert loaded("plain text")["input_ids"] == loaded.backend_tokenizer.encode("plain text").ids, "nothing is added"
    assert loaded.decode(loaded("a , b .")["input_ids"]) == "a , b .", "decoding does not tidy up"


def test_the_chat_template_marks_what_the_assistant_wrote_and_its_end(loaded: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you."},
    ]
    encoded = loaded.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    marked = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert loaded.decode(marked) == "Hi!<|im_end|>See you.<|im_end|>"
    prompt = loaded.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = loaded.apply_chat_template(messages, tokenize=False)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert whole == prompt + "See you.<|im_end|>\n"


def test_a_sample_is_drawn_by_content_and_stays_in_order(tmp_path: Path) -> None:
    texts = [f"text {n:04d}" for n in range(1000)]
    artifact, _ = write_documents(tmp_path, [texts[:600], texts[600:]], removed=[[0, 5], []])

    def sample(characters: int, seed: int = 0) -> list[str]:
        return [text for text, _ in sample_texts(artifact, max_characters=characters, seed=seed)]

    assert sample(10**9) == [t for n, t in enumerate(texts) if n not in (0, 5)]
    some = sample(1800)
    assert 140 < len(some) < 260
    assert some == sorted(some)
    assert some == sample(1800)
    assert some != sample(1800, seed=1)


def test_languages_are_sampled_by_weight_and_temperature_and_fully_where_they_have_less(tmp_path: Path) -> None:
    texts = [f"text {n:04d}" for n in range(4000)]  # of 9 characters: 3,600 English, 400 German
    languages = ["de" if n % 10 == 0 else "en" for n in range(4000)]
    artifact, _ = write_documents(tmp_path, [texts], languages=[languages])

    def counts(**settings: Any) -> Counter[str]:
        return Counter(language for _, language in sample_texts(artifact, max_characters=9000, seed=0, **settings))

    assert counts()["de"] == pytest.approx(100, abs=40)
    assert counts()["en"] == pytest.approx(900, abs=110)
    even = counts(temperature=2.0)  # in proportion to the square roots, 3 : 1
    assert even["en"] / even["de"] == pytest.approx(3, abs=0.7)
    assert counts(weights={"de": 100}) == {"de": 400, "en": counts(weights={"de": 100})["en"]}
    assert set(counts(weights={"de": 0})) == {"en"}


def test_fertility_is_tokens_per_word_by_language(tokenizer: Tokenizer) -> None:
    found = fertility(tokenizer, {"en": ["The house is old."] * 3, "xx": ["Ω Ω"]})
    own = HuggingFaceEncoder(tokenizer).encode(column(["The house is old."]))
    assert found["fertility"]["en"]["tokens_per_word"] == pytest.approx(len(own.ids_T) / 5)
    assert found["fertility"]["xx"] == {"tokens_per_word": 2.5, "bytes_per_token": 1.0}
    assert list(found["fertility"]) == ["en", "xx"]

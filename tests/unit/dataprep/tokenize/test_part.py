"""One part to token shards: every kept document once, ended, on its side of the split, with its doc_id."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer

from cluster.contracts.commit import committed_part
from cluster.contracts.errors import InputError
from cluster.contracts.records import doc_id, shard_and_row
from cluster.contracts.tokens import TokenShard
from dataprep.text.column import TextColumn
from dataprep.tokenize import part as tokenize_part_module
from dataprep.tokenize.config import TokenizeConfig
from dataprep.tokenize.part import HELDOUT, TRAIN, end_of_text_id, tokenize_part
from dataprep.tokenizer.bpe_training import train_bpe
from dataprep.tokenizer.encoders import Encoded, HuggingFaceEncoder, fastest_of
from dataprep.tokenizer.special_tokens import SpecialTokens
from tests.unit.dataprep.small_documents import write_documents

TEXTS = [f"document {n} says <|im_end|> and <|endoftext|> and nothing else" for n in range(600)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe(TEXTS, vocab_size=300, min_frequency=2, special_tokens=SpecialTokens()).save(str(path))
    return path


def tokenize(root: Path, model: Path, name: str = "tokens", **settings: float) -> dict[str, TokenShard]:
    artifact, shards = write_documents(root, [["elsewhere"], TEXTS], removed=[[], [3, 400]])
    config = TokenizeConfig(documents="dedupe", tokenizer="tokenizer", **settings)  # type: ignore[arg-type]
    output = str(root / name)
    count = tokenize_part(
        shards[1], documents=artifact, tokenizer=str(model), output=output, key="k", config=config, num_threads=1
    )
    part = committed_part(output, "k")
    assert part is not None
    assert count == 598
    return {role: TokenShard(f"{output}/{file.name}") for role, file in part.files.items()}


def test_documents_decode_to_their_text_and_end_with_the_separator(tmp_path: Path, model: Path) -> None:
    sides = tokenize(tmp_path, model, heldout_fraction=0.0)
    assert list(sides) == [TRAIN]
    shard, tokenizer = sides[TRAIN], Tokenizer.from_file(str(model))
    control = [tokenizer.token_to_id(token) for token in SpecialTokens().in_order()]
    assert shard.tokens_T.dtype == np.uint16
    for row, identifier in enumerate(shard.doc_ids_D.tolist()):
        ids, text = shard.document(row), TEXTS[shard_and_row(identifier)[1]]
        assert ids[-1] == control[0]
        assert not set(ids[:-1].tolist()) & set(control), "control tokens in a page are text"
        assert tokenizer.decode(ids[:-1].tolist(), skip_special_tokens=False) == text
    assert np.isin(shard.tokens_T, control).sum() == len(shard)


def test_doc_ids_name_shard_and_row_and_removed_rows_are_absent(tmp_path: Path, model: Path) -> None:
    shard = tokenize(tmp_path, model, heldout_fraction=0.0)[TRAIN]
    assert sorted(shard.doc_ids_D.tolist()) == [doc_id(1, row) for row in range(600) if row not in (3, 400)]
    (source,) = set(shard.sources_D.to_pylist())
    assert source.rsplit("/", 1)[-1] == "input-1.jsonl"


def test_an_encoder_of_other_ids_is_found_out_though_the_first_documents_are_removed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = HuggingFaceEncoder(Tokenizer.from_file(str(model)))

    class Wrong:
        name = "wrong"

        def encode(self, texts: TextColumn) -> Encoded:
            found = own.encode(texts)
            return Encoded(found.ids_T + 1, found.offsets)

    monkeypatch.setattr(tokenize_part_module, "encoders", lambda *_, **__: [Wrong(), own])
    tokenize_part_module._open_tokenizer.cache_clear()
    texts = TEXTS * 3
    artifact, shards = write_documents(tmp_path, [texts], removed=[range(1500)])  # more than are read at once
    config = TokenizeConfig(documents="dedupe", tokenizer="tokenizer", heldout_fraction=0.0)
    kept = tokenize_part(
        shards[0], documents=artifact, tokenizer=str(model), output=str(tmp_path), key="k", config=config, num_threads=1
    )
    tokenize_part_module._open_tokenizer.cache_clear()
    part = committed_part(str(tmp_path), "k")
    assert part is not None
    assert (kept, part.metrics["encoder"]) == (300, "tokenizers")
    with pytest.raises(ValueError, match="no texts"):
        fastest_of([Wrong(), own], TextColumn(pa.array([], pa.large_string())))


def test_the_sides_share_no_document_and_miss_none(tmp_path: Path, model: Path) -> None:
    sides = tokenize(tmp_path, model, heldout_fraction=0.25)
    train, heldout = (set(sides[side].doc_ids_D.tolist()) for side in (TRAIN, HELDOUT))
    assert not train & heldout
    assert len(train | heldout) == 598
    assert 100 < len(heldout) < 200
    other_seed = tokenize(tmp_path, model, "again", heldout_fraction=0.25, split_seed=1)[HELDOUT]
    assert set(other_seed.doc_ids_D.tolist()) != heldout


def test_the_same_bytes_come_out_again(tmp_path: Path, model: Path) -> None:
    for name in ("a", "b"):
        tokenize(tmp_path, model, name, heldout_fraction=0.1)
    first, second = (committed_part(str(tmp_path / name), "k") for name in ("a", "b"))
    assert first is not None
    assert second is not None
    assert {role: f.sha256 for role, f in first.files.items()} == {role: f.sha256 for role, f in second.files.items()}
    assert first.metrics == second.metrics


def test_a_separator_that_is_no_token_is_refused_with_those_there_are(model: Path) -> None:
    with pytest.raises(InputError, match=r"special tokens are <\|endoftext\|>, "):
        end_of_text_id(Tokenizer.from_file(str(model)), "</s>")


def test_groups_of_language_and_length_are_ranges_in_an_order_drawn_by_content(tmp_path: Path, model: Path) -> None:
    texts = [f"document {n} " * (1 if n % 3 else 40) for n in range(90)]
    languages = ["en" if n % 2 else "de" for n in range(90)]
    artifact, shards = write_documents(tmp_path, [texts], languages=[languages])
    config = TokenizeConfig(documents="d", tokenizer="t", heldout_fraction=0, length_classes=[50, 100_000])
    output = str(tmp_path / "tokens")
    tokenize_part(
        shards[0], documents=artifact, tokenizer=str(model), output=output, key="k", config=config, num_threads=1
    )
    part = committed_part(output, "k")
    assert part is not None
    whole = TokenShard(f"{output}/{part.files[TRAIN].name}")
    groups = part.metrics[TRAIN]["groups"]
    assert [(g["language"], g["min_length"], g["num_documents"]) for g in groups] == [
        ("de", 0, 30), ("de", 50, 15), ("en", 0, 30), ("en", 50, 15)
    ]  # fmt: skip
    assert sum(g["num_tokens"] for g in groups) == len(whole.tokens_T) == part.metrics[TRAIN]["tokens"]
    for group in groups:
        view = whole.part(group["first_document"], group["num_documents"])
        rows = [shard_and_row(identifier)[1] for identifier in view.doc_ids_D.tolist()]
        assert {languages[row] for row in rows} == {group["language"]}
        assert {row % 3 == 0 for row in rows} == {group["min_length"] == 50}
        assert len(view.tokens_T) == group["num_tokens"] == view.offsets[-1]
        assert rows != sorted(rows)


def test_length_classes_ascend() -> None:
    with pytest.raises(ValueError, match="must ascend"):
        TokenizeConfig(documents="d", tokenizer="t", length_classes=[10, 5])

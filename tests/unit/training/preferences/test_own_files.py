import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from cluster.contracts.artifacts import StageContext, StageResult
from cluster.contracts.errors import InputError
from cluster.contracts.progress import SilentProgress
from tests.chat_fixtures import conversation, make_conversations
from training.feedback.artifact import iterate_rows
from training.feedback.pairs import read_pairs
from training.feedback.splitting import first_asked
from training.preferences.config import PreferencesConfig
from training.preferences.stage import run

HHH = Path(__file__).parents[4] / "job_specs" / "data" / "hhh_alignment.jsonl"


def run_stage(tmp_path: Path, artifacts: Any = None, **settings: Any) -> tuple[StageResult, str]:
    output = str(tmp_path / "out")
    context = StageContext("preferences", SilentProgress(), tmp_path, tmp_path)
    return run(PreferencesConfig(**settings), artifacts or {}, output, context), output


def rows_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(start, start + count)]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_human_pairs_that_ship_are_read_whole_and_split_by_prompt(tmp_path: Path) -> None:
    result, output = run_stage(tmp_path, inputs=[str(HHH)], heldout_fraction=0.2)
    assert result.metrics["num_rows"] == result.metrics["num_train_rows"] + result.metrics["num_heldout_rows"] == 221
    topics = {row["topic"] for split in ("train", "heldout") for row in iterate_rows(output, split)}  # type: ignore[arg-type]
    assert topics == {"helpful", "honest", "harmless", "other"}
    sides = [{first_asked(row) for row in iterate_rows(output, split)} for split in ("train", "heldout")]  # type: ignore[arg-type]
    assert not sides[0] & sides[1]


def test_every_format_and_compression_of_files_gives_the_same_pairs(tmp_path: Path) -> None:
    rows = rows_of(40)
    (tmp_path / "a.jsonl").write_text(lines(rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines(rows).encode()))
    (tmp_path / "d.jsonl.zst").write_bytes(zstandard.compress(lines(rows).encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    (tmp_path / "f.csv").write_text(
        "prompt,chosen,rejected\n" + "".join(f"{r['prompt']},{r['chosen']},{r['rejected']}\n" for r in rows)
    )
    found = []
    for file in ("a.jsonl", "b.json", "c.jsonl.gz", "d.jsonl.zst", "e.parquet", "f.csv"):
        _, output = run_stage(tmp_path, inputs=[str(tmp_path / file)], heldout_fraction=0.3)
        found.append(
            [[(p["prompt"], p["chosen"], p["rejected"]) for p in side] for side in read_pairs(output)],
        )
    assert len(found[0][0]) + len(found[0][1]) == 40
    assert all(each == found[0] for each in found[1:])


def test_bad_rows_are_kept_with_file_line_and_reason_and_lose_no_other(tmp_path: Path) -> None:
    good = [json.dumps(row) for row in rows_of(20)]
    bad = ["{broken", json.dumps({"prompt": "p", "chosen": "a", "rejected": "a"}), json.dumps({"prompt": "p"})]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join([*good[:10], bad[0], "", bad[1], *good[10:], bad[2]]) + "\n")
    result, output = run_stage(tmp_path, inputs=[str(file)], heldout_fraction=0.3)
    assert result.metrics["num_train_rows"] + result.metrics["num_heldout_rows"] == 20
    assert result.metrics["quarantined_by_reason"] == {"bad_json": 1, "missing_answer": 1, "same_answers": 1}
    quarantined = pq.read_table(f"{output}/quarantined.parquet").to_pylist()
    assert [(row["line"], row["reason"]) for row in quarantined] == [
        (11, "bad_json"),
        (13, "same_answers"),
        (24, "missing_answer"),
    ]
    assert all(row["uri"].endswith("pairs.jsonl") for row in quarantined)


def test_a_test_set_of_ones_own_is_held_out_and_its_prompts_leave_training(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(lines(rows_of(20)))
    (tmp_path / "test.jsonl").write_text(lines([{**row, "prompt": row["prompt"].upper()} for row in rows_of(5)]))
    result, output = run_stage(
        tmp_path, inputs=[str(tmp_path / "train.jsonl")], heldout_inputs=[str(tmp_path / "test.jsonl")]
    )
    train, heldout = read_pairs(output)
    assert (len(train), len(heldout)) == (15, 5)
    assert result.metrics["num_dropped_asks_a_heldout_prompt"] == 5


def test_prompts_that_a_conversations_stage_holds_out_are_held_out_here_too(tmp_path: Path) -> None:
    talks = tmp_path / "talks.jsonl"
    talks.write_text(lines([conversation(n) for n in range(60)]))
    inputs = {"heldout_prompts_of": make_conversations(tmp_path / "talks", [talks])}
    file = tmp_path / "pairs.jsonl"
    prompts = [conversation(n)["messages"][0]["content"] for n in range(60)]
    file.write_text(lines([{"prompt": prompt, "chosen": "a", "rejected": "b"} for prompt in prompts]))
    held = pq.read_table(tmp_path / "talks" / "heldout.parquet").num_rows
    result, _ = run_stage(tmp_path, inputs, inputs=[str(file)], heldout_prompts_of="talks", heldout_fraction=0.0)
    assert result.metrics["num_heldout_rows"] == held


def test_own_pairs_and_made_ones_stand_in_one_artifact_without_sharing_held_out_prompts(tmp_path: Path) -> None:
    talks = tmp_path / "talks.jsonl"
    talks.write_text(lines([conversation(n) for n in range(60)]))
    inputs = {"conversations": make_conversations(tmp_path / "talks", [talks])}
    prompts = [conversation(n)["messages"][0]["content"] for n in range(60)]
    file = tmp_path / "pairs.jsonl"
    file.write_text(lines([{"prompt": prompt, "chosen": "a", "rejected": "b"} for prompt in prompts]))
    settings = {"inputs": [str(file)], "conversations": "talks", "heldout_fraction": 0.5, "split_seed": 9}
    result, output = run_stage(tmp_path, inputs, **settings)
    assert result.metrics["num_dropped_asks_a_heldout_prompt"] > 0
    sides = [{first_asked(row) for row in iterate_rows(output, split)} for split in ("train", "heldout")]  # type: ignore[arg-type]
    assert sides[0]
    assert not sides[0] & sides[1]


def test_conversions_are_counted_by_the_kind_that_pairs_are_made_of(tmp_path: Path) -> None:
    rows: list[Any] = rows_of(10)
    rows += [{"prompt": f"r{n}", "answers": ["a", "b", "c"], "ranks": [1, 2, 3]} for n in range(10)]
    rows += [{"prompt": f"s{n}", "response": f"x{i}", "score": float(i)} for n in range(10) for i in range(2)]
    rows += [{"prompt": f"l{n}", "completion": f"y{i}", "label": i} for n in range(10) for i in range(2)]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    result, output = run_stage(tmp_path, inputs=[str(tmp_path / "rows.jsonl")], heldout_fraction=0.5)
    total = {
        kind: sum(result.metrics[f"num_{side}_pairs_from_{kind}"] for side in ("train", "heldout"))
        for kind in ("pair", "ranking", "scores", "label")
    }
    assert total == {"pair": 10, "ranking": 30, "scores": 10, "label": 10}
    train, heldout = read_pairs(output)
    assert len(train) + len(heldout) == 60
    assert {f.name for f in result.files} >= {"train_labels.jsonl", "heldout_labels.jsonl", "train_pairs.jsonl"}


def test_files_without_any_feedback_are_refused_with_the_first_reasons(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"prompt": "p"}\n')
    with pytest.raises(InputError, match=r"line 1: unknown_format, line 2: missing_answer"):
        run_stage(tmp_path, inputs=[str(tmp_path / "rows.jsonl")])


def test_an_empty_side_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(lines(rows_of(3)))
    with pytest.raises(InputError, match="heldout_fraction"):
        run_stage(tmp_path, inputs=[str(tmp_path / "rows.jsonl")], heldout_fraction=0.0)


def test_settings_that_contradict_one_another_are_named_together() -> None:
    with pytest.raises(ValidationError) as caught:
        PreferencesConfig(heldout_inputs=["a.jsonl"], score_range=(1, 0), columns={"chosen_score": "a"})
    assert all(word in str(caught.value) for word in ("inputs", "heldout_inputs", "score_range", "rejected_score"))

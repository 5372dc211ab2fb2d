"""Recorded outputs of the reference implementation: same tokens, same exit layers, confidences to 1e-4."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from models import DeployT5ForConditionalGeneration
from util import AdditionalArguments, update_autoconfig

REFERENCE = Path(__file__).parent / "fixtures" / "reference"
RECORDS = {name: json.loads((REFERENCE / f"{name}.json").read_text()) for name in ("tied", "untied")}
COVERED = ("full", "static", "softmax", "meta", "fixed", "jsd", "reweight", "free")
# torch's float32 softmax is off by up to 2e-5 on a CPU with AVX2 and half that with AVX-512, where the record was made;
# a contrastive confidence that close to the threshold is a toss-up between the two.
TOSS_UP = 1e-5
CASES = [
    (name, policy) for name, record in RECORDS.items() for policy in record["policies"] if policy.startswith(COVERED)
]


def load(name, flags):
    """As a user of the reference would: config, flags, model."""
    path = REFERENCE / RECORDS[name]["checkpoint"]
    config = update_autoconfig(
        AutoConfig.from_pretrained(path),
        AdditionalArguments(**flags),
        max_answer_length=RECORDS[name]["max_answer_length"],
    )
    return DeployT5ForConditionalGeneration.from_pretrained(path, config=config).eval()


def padded(rows):
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, (ids != 0).long()


def toss_up(row, flags):
    """Whether a contrastive confidence of the row, or of one under pruning, all but equals the threshold."""
    if flags.get("exit_conf_type", "softmax") == "softmax" and "type_vocab_reduct" not in flags:
        return False
    confidences = [confidence for step in row["confidences"] for confidence in step]
    return any(abs(confidence - flags["exit_conf_threshold"]) < TOSS_UP for confidence in confidences)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize(("name", "policy"), [case for case in CASES if "adaptive" not in case[1]])
def test_tokens_exits_and_confidences(name, policy, batch):
    record = RECORDS[name]
    recorded = record["policies"][policy]
    rows = [row for row in recorded["rows"] if not toss_up(row, recorded["flags"])][:: 1 if batch > 1 else 3]
    assert len(rows) > (40 if batch > 1 else 13) * len(recorded["rows"]) / 60
    model = load(name, recorded["flags"])
    far = compared = 0
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        ids, mask = padded([record["inputs"][row["input"]] for row in some])
        sequences, trace = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=record["max_new_tokens"],
            repetition_penalty=recorded["repetition_penalty"],
            return_trace=True,
        )
        for index, row in enumerate(some):
            own = trace.row(index)
            assert sequences[index, : len(row["tokens"])].tolist() == row["tokens"]
            if "exit_layers" not in row:  # of rollback, whose steps and tokens differ
                continue
            assert own.exit_layers[0].tolist() == row["exit_layers"]
            for found, expected in zip(own.confidences[0], row["confidences"], strict=True):
                found = found[~np.isnan(found)]
                assert len(found) == len(expected)
                compared += len(found)
                far += int((np.abs(found - expected) > 1e-4).sum())
    # Two layers may be equally far from the exit's to the last digit; another amateur is another confidence.
    assert far <= (compared / 500 if policy.startswith("jsd") else 0)


@pytest.mark.parametrize(("name", "policy"), [case for case in CASES if "adaptive" in case[1]])
def test_adaptive_threshold(name, policy):
    record = RECORDS[name]
    recorded = record["policies"][policy]
    model = load(name, recorded["flags"])
    for row in recorded["rows"]:  # in their order: the threshold learns from one to the next
        ids, _ = padded([record["inputs"][row["input"]]])
        sequences, trace = model.generate(input_ids=ids, max_new_tokens=record["max_new_tokens"], return_trace=True)
        assert model.threshold.value == pytest.approx(row.get("adaptive_threshold", model.threshold.start), abs=1e-9)
        assert sequences[0].tolist() == row["tokens"]
        assert trace.exit_layers[0].tolist() == row["exit_layers"]
        found = trace.confidences[0][~np.isnan(trace.confidences[0])]
        assert found == pytest.approx([c for step in row["confidences"] for c in step], abs=1e-4)

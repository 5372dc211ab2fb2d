"""Recorded outputs of the reference implementation: same tokens, same exit layers, same confidences.

Ours are worked out in float64, so that they are the same on any processor and at any batch size; the record is float32.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from models import DeployT5ForConditionalGeneration
from support import double_precision
from util import AdditionalArguments, update_autoconfig

REFERENCE = Path(__file__).parent / "fixtures" / "reference"
RECORDS = {name: json.loads((REFERENCE / f"{name}.json").read_text()) for name in ("tied", "untied")}
COVERED = ("full", "static", "softmax", "meta", "fixed", "jsd", "reweight", "free")
# How far the record's confidences, in float32, are off at most. So near to the threshold one may fall either way.
OFF = 2e-5
CASES = [
    (name, policy) for name, record in RECORDS.items() for policy in record["policies"] if policy.startswith(COVERED)
]


def load(name, flags):
    """As a user of the reference would: config, flags, model; in float64."""
    path = REFERENCE / RECORDS[name]["checkpoint"]
    config = update_autoconfig(
        AutoConfig.from_pretrained(path),
        AdditionalArguments(**flags),
        max_answer_length=RECORDS[name]["max_answer_length"],
    )
    return double_precision(DeployT5ForConditionalGeneration.from_pretrained(path, config=config).eval())


def padded(rows):
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, (ids != 0).long()


def toss_up(trace, step):
    """Whether at this token, the first that left from another layer, a confidence all but equals the threshold."""
    return np.nanmin(np.abs(trace.confidences[0, step] - trace.threshold[0, step])) < OFF


def compare(sequence, trace, row) -> bool:
    """Compare a row with what was recorded of it; whether it left from the same layers, or in a toss-up."""
    assert sequence[: len(row["tokens"])].tolist() == row["tokens"]
    if "exit_layers" not in row:  # of rollback, whose steps and tokens differ
        return True
    found = trace.exit_layers[0].tolist()
    if found != row["exit_layers"]:
        step = next(i for i, (mine, theirs) in enumerate(zip(found, row["exit_layers"], strict=True)) if mine != theirs)
        assert toss_up(trace, step)
        return False
    for own, expected in zip(trace.confidences[0], row["confidences"], strict=True):
        np.testing.assert_allclose(own[~np.isnan(own)], expected, atol=OFF, rtol=0)
    return True


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize(("name", "policy"), [case for case in CASES if "adaptive" not in case[1]])
def test_tokens_exits_and_confidences(name, policy, batch):
    record, recorded = RECORDS[name], RECORDS[name]["policies"][policy]
    rows = recorded["rows"][:: 1 if batch > 1 else 6]
    same = 0
    with load(name, recorded["flags"]) as model:
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
            same += sum(compare(sequences[index], trace.row(index), row) for index, row in enumerate(some))
    assert same >= len(rows) - 1


@pytest.mark.parametrize(("name", "policy"), [case for case in CASES if "adaptive" in case[1]])
def test_adaptive_threshold(name, policy):
    record, recorded = RECORDS[name], RECORDS[name]["policies"][policy]
    with load(name, recorded["flags"]) as model:
        for row in recorded["rows"]:  # in their order: the threshold learns from one to the next
            ids, _ = padded([record["inputs"][row["input"]]])
            sequences, trace = model.generate(input_ids=ids, max_new_tokens=record["max_new_tokens"], return_trace=True)
            expected = row.get("adaptive_threshold", model.threshold.start)  # one of ten points
            assert model.threshold.value == pytest.approx(expected, abs=1e-9)
            assert compare(sequences[0], trace, row)

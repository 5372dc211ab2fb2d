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
COVERED = ("full", "static", "softmax", "meta")
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


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize(("name", "policy"), CASES)
def test_tokens_exits_and_confidences(name, policy, batch):
    record = RECORDS[name]
    rows = record["policies"][policy]["rows"][:: 1 if batch > 1 else 3]
    model = load(name, record["policies"][policy]["flags"])
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        ids, mask = padded([record["inputs"][row["input"]] for row in some])
        sequences, trace = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=record["max_new_tokens"], return_trace=True
        )
        for index, row in enumerate(some):
            own = trace.row(index)
            assert sequences[index, : len(row["tokens"])].tolist() == row["tokens"]
            assert own.exit_layers[0].tolist() == row["exit_layers"]
            for found, expected in zip(own.confidences[0], row["confidences"], strict=True):
                np.testing.assert_allclose(found[~np.isnan(found)], expected, atol=1e-4)

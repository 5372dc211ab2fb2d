"""Every training loss of the reference implementation, recorded in float64: its value and three of its gradients."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from models import DeployT5ForConditionalGeneration
from util import AdditionalArguments, update_autoconfig

FOLDER = Path(__file__).parents[1] / "fixtures" / "reference" / "losses"
RECORDED = json.loads((FOLDER / "losses.json").read_text())
CASES = [(kind, place) for kind, records in RECORDED["records"].items() for place in range(len(records))]


@pytest.mark.parametrize(("kind", "place"), CASES)
def test_values_and_gradients_are_the_recorded_ones(kind, place):
    record = RECORDED["records"][kind][place]
    config = update_autoconfig(
        AutoConfig.from_pretrained(FOLDER / f"t5_{kind}"), AdditionalArguments(**record["flags"])
    )
    model = DeployT5ForConditionalGeneration.from_pretrained(FOLDER / f"t5_{kind}", config=config).double().train()
    batch = {name: torch.tensor(RECORDED[name]) for name in ("input_ids", "attention_mask")}
    loss = model(**batch, labels=torch.tensor(RECORDED[record["labels"]])).loss
    loss.backward()
    assert loss.item() == pytest.approx(record["loss"], rel=1e-4)
    weights = {
        "block3_wo": model.decoder.block[2].layer[-1].DenseReluDense.wo.weight,
        "block12_wo": model.decoder.block[11].layer[-1].DenseReluDense.wo.weight,
        "shared": model.shared.weight,
    }
    assert {name: weights[name].grad.norm().item() for name in weights} == pytest.approx(record["grad"], rel=1e-4)

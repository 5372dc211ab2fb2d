"""Which package a flag needs, and what is said where it is missing."""

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from training.reporting import check_trackers
from util.packages import OPTIMIZERS, optimizer_package, package_problems

OWN = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}


def test_every_optimiser_of_the_library_is_its_own_or_has_a_package():
    packages = {each.value: optimizer_package(each.value) for each in OptimizerNames}
    assert {name for name, package in packages.items() if package is None} == OWN
    assert set(packages.values()) == {None, *OPTIMIZERS.values()}
    assert packages["adamw_torch_8bit"] == "torchao" and packages["adamw_8bit"] == "bitsandbytes"
    assert packages["galore_adamw_8bit"] == "galore-torch" and packages["adalomo"] == "lomo-optim"


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    assert package_problems("--report_to torch", "torch") == []
    monkeypatch.setattr("util.packages.find_spec", lambda module: None)
    (told,) = package_problems("--deepspeed", "deepspeed")
    assert told == "--deepspeed needs the package deepspeed: pip install deepspeed, or leave the flag out."


def test_trackers_are_refused_where_they_are_unknown_or_missing(monkeypatch):
    with pytest.raises(ValueError, match="--report_to comet: valid are azure_ml, comet_ml"):
        check_trackers(["comet"])
    monkeypatch.setattr("util.packages.find_spec", lambda module: None)
    check_trackers([])
    for name in set(INTEGRATION_TO_CALLBACK) - {"kubeflow"}:
        with pytest.raises(ValueError, match=f"--report_to {name} needs the package .*: pip install"):
            check_trackers([name])
    monkeypatch.setattr("util.packages.find_spec", lambda module: module == "tensorboardX" or None)
    check_trackers(["tensorboard"])

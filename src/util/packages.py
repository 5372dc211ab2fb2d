"""Flags whose feature lives in a package that requirements.txt does not hold: told before anything is loaded."""

import re
from importlib.util import find_spec

# What pip installs -> what is imported then, where that has another name; one of several suffices.
MODULES = {
    "apollo-torch": ("apollo_torch",),
    "azureml-sdk": ("azureml",),
    "galore-torch": ("galore_torch",),
    "liger-kernel": ("liger_kernel",),
    "lomo-optim": ("lomo_optim",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "torch-optimi": ("optimi",),
}
# The first that is found in the name of an --optim -> its package; others are PyTorch's and transformers' own.
OPTIMIZERS = {
    "galore": "galore-torch",
    "apollo": "apollo-torch",
    "lomo": "lomo-optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "torch-optimi",
    "anyprecision": "torchdistx",
    "torch_[48]bit": "torchao",
    "xla": "torch_xla",
    "npu": "torch_npu",
    "bnb|8bit|32bit|ademamix": "bitsandbytes",
}
# --report_to -> its package, where that has another name.
TRACKERS = {"azure_ml": "azureml-sdk", "flyte": "flytekit"}


def optimizer_package(name: str) -> str | None:
    """What an optimiser comes with; None where it needs nothing more."""
    return next((package for words, package in OPTIMIZERS.items() if re.search(words, name)), None)


def package_problems(flag: str, package: str, instead: str = "leave the flag out") -> list[str]:
    """A sentence where the package that a flag needs is not installed."""
    if any(find_spec(module) for module in MODULES.get(package, (package,))):
        return []
    return [f"{flag} needs the package {package}: pip install {package}, or {instead}."]

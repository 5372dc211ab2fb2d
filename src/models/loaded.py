"""A model that is loaded already, by a pipeline, a Trainer or the merging of an adapter, decodes early as it is.

What `models.deploy` gives is a second view of the same object: the deployed class on the model's own modules,
parameters and settings. Nothing is copied, and what is done to one (a training step, `to`, `eval`, a new head) is done
to both; `generate` alone differs, which on the model that was given stays the library's.
"""

import logging

from transformers import PreTrainedModel

from models.deploying import EarlyExitGeneration

# The library's pipelines know its own classes by name and call any other unsupported, in a line of 200 names; all that
# they ask of a model is generate.
logging.getLogger("transformers.pipelines.base").addFilter(lambda record: "'Deploy" not in record.getMessage())


def refuse_wrapped(model) -> None:
    """Refuse what is no model of the library, such as a wrapper of one.

    Raises:
        ValueError: The sentence says what is inside, where that is known.
    """
    if isinstance(model, PreTrainedModel):
        return
    advice = "a transformers model is wanted, not what wraps or names it"
    if hasattr(model, "merge_and_unload"):  # peft
        advice = "merge its adapter first, deploy(model.merge_and_unload())"
    raise ValueError(f"deploy got a {type(model).__name__}: {advice}.")


def view(model: PreTrainedModel, deployed: type[EarlyExitGeneration]) -> EarlyExitGeneration:
    """The model as an instance of the deployed class of its architecture.

    Raises:
        ValueError: It is another class than those `deployed` is made of (it has no head, or methods of its own), or its
            adapter does not fit it.
    """
    if isinstance(model, deployed):
        return model
    library = next(each for each in deployed.__mro__ if each.__module__.startswith("transformers.models."))
    if not isinstance(model, library) or not issubclass(deployed, type(model)):
        raise ValueError(
            f"deploy got a {type(model).__name__}: of the architecture {model.config.model_type} it takes a "
            f"{library.__name__}."
        )
    seen = deployed.__new__(deployed)
    seen.__dict__ = model.__dict__
    seen.refuse_unsupported()
    return seen

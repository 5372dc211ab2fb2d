"""What a mixin over a model class of the library may count on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import GenerationMixin, PreTrainedModel

    class LibraryModel(PreTrainedModel, GenerationMixin):
        """A model class of the library with a language-model head, which can generate."""

        lm_head: nn.Module
else:  # what is mixed in brings its own bases
    LibraryModel = object

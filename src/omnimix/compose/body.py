"""The model without its output head, as those who bring a head of their own ask for it (TRL's fused loss)."""

from __future__ import annotations

from typing import Any

from torch import nn

from omnimix.errors import OmnimixError


class Headless(nn.Module):
    """Takes what the model takes and gives `last_hidden_state`; everything else of it is the language model's.

    Made anew at each call and part of no tree, so that every parameter has one name.
    """

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, input_ids: Any = None, **words: Any) -> Any:
        """Hidden states `[batch, tokens, width]` as the language model's own body gives them.

        Raises:
            OmnimixError: an output head that is more than a linear layer over all its rows, which the caller would
                take it for.
        """
        head = self.whole.recipe.language.head
        if head is not None and head.width is not None:
            raise OmnimixError(
                f"the output head gives {head.width} of its rows (language.head), and a fused loss takes all",
                hint="train this model with Trainer or omnimix train; TRL's trainers cannot",
            )
        given = words.pop("return_dict", None)  # peft hands it on by name
        output = self.whole.run(self.whole.language.base_model, input_ids, **words)
        return output.to_tuple() if given is False else output

    def save_pretrained(self, save_directory: Any, **words: Any) -> None:
        """The language model's weights in a folder of the whole model; opened again, everything else of it is fresh."""
        state = words.pop("state_dict", None) or self.whole.state_dict()
        prefix = f"{self.whole.base_model_prefix}."
        own = {name: value for name, value in state.items() if name.startswith(prefix)}
        self.whole.save_pretrained(save_directory, state_dict=own, **words)

    def get_encoder(self, modality: str | None = None) -> Headless:
        """Itself: there is no encoder that stands for all items."""
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            whole: Any = super().__getattr__("whole")
            return getattr(whole.language, name)

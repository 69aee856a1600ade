"""An output head with a bias, or one whose table has more rows than there are logits."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from omnimix.config import Spec
from omnimix.errors import RecipeError


class HeadSpec(Spec):
    """What sets a language model's output head apart from the plain one of transformers.

    For instance arXiv 2408.08872 keeps the 32064 rows of Phi-3's tables, uses the first 32012, adds three
    of its own and gives every head row a bias. Here that is one table of 32067 rows, the unused ones last,
    of which the first 32015 give logits.

    Attributes:
        bias: whether each row has a learned bias.
        width: number of logits; the rows behind are kept for writing back. None uses every row.
    """

    bias: bool = False
    width: Annotated[int, Gt(0)] | None = None

    def install(self, model: nn.Module) -> None:
        """Put such a head into a freshly built language model.

        Raises:
            RecipeError: more logits than rows.
        """
        plain: nn.Linear = model.get_output_embeddings()  # type: ignore[operator]
        width = plain.out_features if self.width is None else self.width
        if width > plain.out_features:
            raise RecipeError(
                f"{width} logits from a head of {plain.out_features} rows",
                where="language.head.width",
                hint="make language.config.vocab_size at least as large",
            )
        head = Head(plain.in_features, plain.out_features, width, self.bias)
        head.to(plain.weight.dtype)
        head.weight = plain.weight
        model.set_output_embeddings(head)  # type: ignore[operator]


class Head(nn.Linear):
    """A linear layer that gives the first `width` of its rows."""

    def __init__(self, inputs: int, rows: int, width: int, bias: bool) -> None:
        super().__init__(inputs, rows, bias=bias)
        self.width = width

    def forward(self, input: Float[Tensor, "*places inputs"]) -> Float[Tensor, "*places width"]:
        bias: Tensor | None = self.bias
        bias = None if bias is None else bias[: self.width]
        return functional.linear(input, self.weight[: self.width], bias)

"""The language model's step by OpenVINO: one graph, traced from the torch module, over keys and values in pages.

The tokens of all texts stand in one row, as in `omnimix.language.ragged`; every layer's attention becomes OpenVINO's
paged attention, which finds what a text has seen in pages of a common pool. A text takes pages as it grows and gives
them back when it is forgotten, so that texts join and leave a step and nothing is copied.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from omnimix import _transformers
from omnimix.errors import OmnimixError
from omnimix.language import ragged

PAGE = 32
"""Tokens of a page: what OpenVINO's kernel for the CPU takes."""
EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "PERFORMANCE_HINT": "LATENCY",
}
"""Keys and values as they are, and no rounding of what goes through the layers."""
NAMES = ("embeddings", "places", "lasts", "past", "begins", "pages", "page_begins", "longest")
"""Inputs of the graph, before the pools of the layers."""
OPERATION = "omnimix::paged"


@torch.library.custom_op(
    OPERATION,
    mutates_args=(),
    schema="(Tensor[] given, int width, float scaling, int window) -> Tensor",
)
def _paged(given: Sequence[Tensor], width: int, scaling: float, window: int) -> Tensor:
    """Stands for paged attention while the model is traced; what it gives is no part of the graph."""
    return given[0].new_zeros(len(given[0]), width)


def _operation(context: Any) -> list[Any]:
    """OpenVINO's paged attention in the place of ours: its inputs 0 to 12, and 15 that turn something off."""
    from openvino import opset15 as ops
    from openvino.op import _PagedAttentionExtension

    def number(value: Any, kind: Any = np.int32) -> Any:
        return ops.constant(np.asarray(value, dtype=kind)).output(0)

    def none(kind: Any = np.int32) -> Any:
        return ops.constant(np.zeros(0, dtype=kind)).output(0)

    listed = context.get_input(0).get_node()
    given = [listed.input_value(i) for i in range(listed.get_input_size())]
    scaling, window = (context.get_values_from_const_input(i) for i in (2, 3))
    return [
        _PagedAttentionExtension([
            *given[:9],
            number(scaling, np.float32),
            number(window),
            none(np.float32),  # slopes
            given[9],
            none(),  # sums of scores
            none(), none(), none(np.float32),  # turned pages
            none(np.float32), number(0), number(0),  # sparse attention
            given[10] if len(given) > 10 else none(np.float32),  # sinks
            number(0), none(), none(), none(),  # pages that are given up
            none(),  # types of tokens
            none(np.uint8), none(),  # trees of drafts
        ]).output(0)
    ]  # fmt: skip


class _Traced(ragged.PassCache):
    """The cache of the pass that is traced: hands pools and places on to the attention."""

    def __init__(self, common: Sequence[Tensor], pools: Sequence[Tensor]) -> None:
        super().__init__([], [])
        self.common, self.pools = common, pools

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        return keys, values

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[Any, int]:
        return query_length, 0  # a tensor while lengths are traced

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, window: int | None, *own: Any
    ) -> Tensor:
        """What a layer's attention gives, `[1, tokens, heads, width]`; all others `[1, heads, tokens, width]`."""
        scaling, _, softcap, sinks = own
        if softcap is not None:
            raise OmnimixError("its attention has a soft cap, for which OpenVINO has no kernel")
        at, heads, width = 2 * module.layer_idx, query.shape[1], value.shape[3]
        flat = [x[0].transpose(0, 1).flatten(1) for x in (query, key, value)]
        given = [*flat, *self.pools[at : at + 2], *self.common]
        if sinks is not None:
            given.append(sinks.float().view(1, -1, 1, 1))
        scaling = query.shape[3] ** -0.5 if scaling is None else scaling
        found: Tensor = torch.ops.omnimix.paged(given, heads * width, scaling, window or 0)
        apart: Tensor = found.unflatten(1, (heads, width))[None]
        return apart


class _Graph(nn.Module):
    """What is traced."""

    def __init__(self, language: Any) -> None:
        super().__init__()
        self.language = language

    def forward(
        self,
        embeddings: Float[Tensor, "tokens width"],
        places: Int[Tensor, " tokens"],
        lasts: Int[Tensor, " texts"],
        *rest: Tensor,
    ) -> Float[Tensor, "texts v"]:
        rows = _Traced(rest[:5], rest[5:])
        return ragged.run_pass(self.language, embeddings[None], places[None], rows, lasts)


def traced(language: Any, layout: ragged.CacheLayout, width: int) -> Any:
    """OpenVINO's graph of a language model, its weights in float32."""
    import openvino as ov
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch import ConversionExtension
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    pools = [(heads, PAGE, size) for pair in layout.layers.values() for heads, size in pair]
    integers = [torch.tensor(x, dtype=torch.int32) for x in ([0, 0], [0, 2, 5], [0, 1], [0, 1, 2])]
    like = (
        torch.randn(5, width),
        torch.tensor([0, 1, 0, 1, 2]),
        torch.tensor([1, 4]),
        *integers,
        torch.tensor(3, dtype=torch.int32),
        *(torch.zeros(2, *one) for one in pools),
    )
    with torch.no_grad(), _transformers.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether what was traced is right is found by comparing
        # Not by `convert_model`, which tells its makers what is converted.
        reader = FrontEndManager().load_by_framework("pytorch")
        reader.add_extension(ConversionExtension(OPERATION, _operation))
        decoder = TorchScriptPythonDecoder(_Graph(language).eval(), example_input=like)
        made = reader.convert(reader.load(decoder))
    shapes = [(-1, width), *[(-1,)] * 6, (), *((-1, *one) for one in pools)]
    names = [*NAMES, *(f"pool.{i}" for i in range(len(pools)))]
    for port, shape, name in zip(made.inputs, shapes, names, strict=True):
        port.get_node().set_partial_shape(ov.PartialShape(list(shape)))
        port.get_tensor().set_names({name})
    made.validate_nodes_and_infer_types()
    return made


def narrowed(graph: Any, weights: str) -> None:
    """Hold the matrices of a graph, its large part, in fewer bits; all other constants stay as they are.

    Args:
        weights: `16` for float16, `int8` with a scale for each row, `int4` with one for each 64 columns or fewer.
    """
    from openvino import opset15 as ops

    for node in graph.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        port = node.input(1)
        held = port.get_source_output().get_node()
        if held.get_type_name() == "Convert":
            held = held.input_value(0).get_node()
        if held.get_type_name() == "Constant" and len(held.shape) == 2:
            port.replace_source_output(_held(ops, held, weights).output(0))


def _held(ops: Any, constant: Any, weights: str) -> Any:
    """A matrix `[out, in]` in fewer bits, and what makes float32 of it."""
    import openvino as ov

    matrix = np.asarray(constant.data, dtype=np.float32)
    if weights == "16":
        return ops.convert(ops.constant(matrix.astype(np.float16)), "f32")
    rows, columns = matrix.shape
    size = columns if weights == "int8" else math.gcd(columns, 64)
    most = 127 if weights == "int8" else 7
    parts = matrix.reshape(rows, -1, size)
    scale = np.maximum(np.abs(parts).max(2, keepdims=True), 1e-12) / most
    whole = np.rint(parts / scale).astype(np.int8)
    if weights == "int8":
        kept = ops.constant(whole.reshape(rows, columns))
        return ops.multiply(ops.convert(kept, "f32"), ops.constant(scale.reshape(rows, 1)))
    pairs = whole.reshape(-1, 2).astype(np.uint8) & 15
    packed = ov.Tensor(pairs[:, 0] | pairs[:, 1] << 4, list(parts.shape), ov.Type.i4)
    kept = ov.op.Constant(packed, shared_memory=False)
    found = ops.multiply(ops.convert(kept, "f32"), ops.constant(scale))
    return ops.reshape(found, ops.constant(np.array([rows, columns])), False)


def compiled(graph: Any) -> Any:
    """The graph made ready for the CPU."""
    import openvino as ov

    for node in graph.get_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            about = node.get_rt_info()  # no file holds it
            for word, place in (("k", 3), ("v", 4)):
                shape = node.get_input_partial_shape(place)
                about[f"num_{word}_heads"] = shape[1].get_length()
                about[f"{word}_head_size"] = shape[3].get_length()
    return ov.Core().compile_model(graph, "CPU", EXACT)


class _Text:
    """A text.

    Attributes:
        length: tokens that it holds.
        pages: in which its keys and values lie, in their order.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.length = 0
        self.pages: list[int] = []


class Paged:
    """All texts in one pass of OpenVINO's graph.

    Args:
        graph: as `traced` made it.
        layout: of the torch model.
    """

    whole = False

    def __init__(self, graph: Any, layout: ragged.CacheLayout) -> None:
        self.layout = layout
        shapes = [one for pair in layout.layers.values() for one in pair]
        self.token_bytes = 4 * sum(heads * size for heads, size in shapes)
        self.pools = [np.zeros((0, heads, PAGE, size), np.float32) for heads, size in shapes]
        self._free: list[int] = []
        self._request = compiled(graph).create_infer_request()

    def open(self, room: int) -> _Text:
        text = _Text(room)
        # Whoever forgets a text gives its pages back.
        weakref.finalize(text, self._free.extend, text.pages).atexit = False
        return text

    def run(self, texts: Sequence[_Text], embeddings: Sequence[Tensor]) -> Tensor:
        counts = [len(one) for one in embeddings]
        for text, count in zip(texts, counts, strict=True):
            self._reserve(text, text.length + count)
        pages = [text.pages for text in texts]
        places = [text.length + np.arange(n) for text, n in zip(texts, counts, strict=True)]
        given = {
            "embeddings": torch.cat([one.float() for one in embeddings]).numpy(),
            "places": np.concatenate(places),
            "lasts": np.cumsum(counts) - 1,
            "past": _whole([text.length for text in texts]),
            "begins": _whole([0, *np.cumsum(counts)]),
            "pages": _whole([one for own in pages for one in own]),
            "page_begins": _whole([0, *np.cumsum([len(own) for own in pages])]),
            "longest": _whole(max(t.length + n for t, n in zip(texts, counts, strict=True))),
        }
        pools = {f"pool.{i}": pool for i, pool in enumerate(self.pools)}
        found = self._request.infer({**given, **pools}, share_inputs=True)
        for text, count in zip(texts, counts, strict=True):
            text.length += count
        return torch.from_numpy(np.array(found[0]))

    def cut(self, text: _Text, start: int, end: int) -> list[Tensor]:
        where = np.arange(start, end)
        pages, rows = np.asarray(text.pages)[where // PAGE], where % PAGE
        return [torch.from_numpy(pool[pages, :, rows]) for pool in self.pools]

    def put(self, text: _Text, pieces: Sequence[Tensor]) -> None:
        count = len(pieces[0])
        self._reserve(text, text.length + count)
        where = text.length + np.arange(count)
        pages, rows = np.asarray(text.pages)[where // PAGE], where % PAGE
        for pool, piece in zip(self.pools, pieces, strict=True):
            pool[pages, :, rows] = piece.numpy()
        text.length += count

    def _reserve(self, text: _Text, tokens: int) -> None:
        """Pages for so many tokens of a text; a pool that is used up is doubled, so that few steps copy it."""
        lacks = -(-tokens // PAGE) - len(text.pages)
        if lacks > len(self._free):
            held = len(self.pools[0])
            more = max(lacks, held, 16)
            self.pools = [
                np.concatenate([p, np.zeros_like(p, shape=(more, *p.shape[1:]))])
                for p in self.pools
            ]
            self._free.extend(range(held, held + more))
        text.pages.extend(self._free.pop() for _ in range(lacks))


def _whole(numbers: Any) -> Int[np.ndarray, "..."]:
    return np.asarray(numbers, dtype=np.int32)


def read(file: Path) -> Any:
    """A graph that was kept.

    OpenVINO writes paged attention into its files and does not read it: it is read as an operation of ours of the same
    name, in whose place the real one then stands.
    """
    import openvino as ov
    from openvino.op import _PagedAttentionExtension

    class PagedAttentionExtension(ov.Op):  # type: ignore[misc]
        def __init__(self, inputs: Any = None) -> None:
            super().__init__(self)
            if inputs is not None:
                self.set_arguments(inputs)
                self.constructor_validate_and_infer_types()

        def validate_and_infer_types(self) -> None:
            self.set_output_size(3)
            for i in range(3) if self.get_input_size() else ():
                shape = ov.PartialShape([-1, -1])
                self.set_output_type(i, self.get_input_element_type(0), shape)

        def clone_with_new_inputs(self, inputs: Any) -> PagedAttentionExtension:
            return PagedAttentionExtension(inputs)

        def visit_attributes(self, visitor: Any) -> bool:
            return True

    core = ov.Core()
    core.add_extension(PagedAttentionExtension)
    graph = core.read_model(file)
    for node in graph.get_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            made = _PagedAttentionExtension(node.input_values())
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(made.output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def version() -> str:
    """Of what files depend on."""
    import openvino as ov

    return str(ov.__version__)


def drafts(
    model: Any, layout: ragged.CacheLayout, steps: Sequence[str], folder: Path
) -> Iterator[tuple[str, Callable[[], Paged]]]:
    """The graph with weights in fewer and fewer bits, to be tried; the last is left in a folder."""
    import openvino as ov

    graph = traced(model.language, layout, model.width)
    for step in steps:
        narrowed(graph, step)
        yield step, lambda: Paged(graph, layout)
    ov.save_model(graph, folder / "model.xml", compress_to_fp16=False)


def opened(folder: Path, layout: ragged.CacheLayout) -> Paged:
    """What `drafts` left there."""
    return Paged(read(folder / "model.xml"), layout)

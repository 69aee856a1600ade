"""Recipes, files and texts of strangers: refused at once, in a sentence that says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import omnimix
from omnimix import config
from omnimix.checkpoints.files import check_finite, tensors_of
from omnimix.compose import recipe as recipes
from omnimix.compose.processor import Processor
from omnimix.encoders.timm import TimmEncoder
from omnimix.errors import CheckpointError, ContextError, RecipeError, UnsafeFileError
from omnimix.language.causal_lm import CausalLM
from omnimix.media.files import found, looking_in
from omnimix.types import Sample, Turn

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
ODD = {
    "aliases for 9^9 words": (BOMB, "line 6.*aliases"),
    "aliases in tables": (BOMB.replace("[", "{a: [").replace("]", "]}"), "aliases"),
    "an alias inside itself": ("a: &a [*a]\n", "line 1.*inside what"),
    "an alias inside its table": ("a: &a {b: *a}\n", "inside what"),
    "aliases of tables in tables": (BOMB.replace("[x,x", "[{a: x},x"), "aliases"),
    "aliases merged": (
        "a0: &a0 {k: [x,x,x,x,x,x,x,x,x]}\n"
        + "".join(
            f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n"
            for i in range(1, 9)
        ),
        "aliases",
    ),
    "aliases in blocks": (
        "a0: &a0\n- x\n" + "".join(f"a{i}: &a{i}\n" + f"- *a{i - 1}\n" * 20 for i in range(1, 8)),
        "aliases",
    ),
    "an alias many times": ("a: &a [" + "x," * 3000 + "]\nb: [" + "*a," * 3000 + "]\n", "aliases"),
    "a long text many times": (
        "a: &a " + "x" * 100_000 + "\nb: [" + "*a," * 20_000 + "]\n",
        "aliases",
    ),
    "an alias inside itself, deep": ("a: &a {b: [1, {c: *a}]}\n", "inside what"),
    "the whole inside itself": ("&a\nb: *a\n", "inside what"),
    "an alias of nothing": ("a: *b\n", "line 1"),
    "an alias before its name": ("a: *b\nb: &b 1\n", "line 1"),
    "a merge of no table": ("a: &a 1\nb:\n  <<: *a\n", "line 3"),
    "a date that is none": ("x: 1\na: 2024-99-99\n", "line 2"),
    "a time that is none": ("a: 2024-01-01 99:00:00\n", "line 1"),
    "a list as a key": ("x:\n  {[1, 2]: 3}\n", "line 2"),
    "a list as a key, deep": ("a:\n  b:\n    ? [1]\n    : 2\n", "line 3"),
    "a table as a key": ("{{a: 1}: 3}\n", "line 1"),
    "a long number": ("a: " + "9" * 5000 + "\n", "line 1"),
    "depth of tables": ("{a: " * 3000 + "1" + "}" * 3000, "deeper than"),
    "depth of lists": ("[" * 3000 + "]" * 3000, "deeper than"),
    "bad base64": ("a: !!binary abc\n", "line 1"),
    "a class of Python": ("a: !!python/object:os.system {}\n", "line 1"),
    "a whole number that is none": ("a: !!int many\n", "line 1"),
    "a truth that is none": ("a: !!bool perhaps\n", "line 1"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_yaml_is_refused_at_its_place(name: str) -> None:
    text, where = ODD[name]
    with pytest.raises(RecipeError, match=where) as caught:
        config.parse_yaml(text, "x.yaml")
    assert caught.value.where and caught.value.where.startswith("x.yaml: line ")


def test_aliases_that_stay_small_are_read() -> None:
    assert config.parse_yaml("a: &a [1, 2]\nb: [*a, *a]\n", "x")["b"] == [[1, 2], [1, 2]]


NAMES = [
    *("../secret", "a/../../secret", "/etc/hosts", "..", "C:\\secret", "..\\secret", "a\0b"),
    *("a/..", "//etc/hosts", "\\\\host\\secret", "C:secret", "a\\..\\..\\secret", "/"),
]


@pytest.mark.parametrize("name", NAMES)
def test_files_of_a_recipe_stay_inside(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("x")
    with looking_in([tmp_path / "model"]), pytest.raises(RecipeError, match="does not lie in"):
        found(name)
    with looking_in([{name: tmp_path / "secret"}]):  # somebody says that it may be read
        assert found(name) == tmp_path / "secret"


def test_a_file_is_not_looked_for_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with looking_in([tmp_path / "model"]), pytest.raises(RecipeError, match="is not there"):
        found(str(tmp_path / "secret").lstrip("/"))
    with looking_in([tmp_path]):
        assert found("secret") == tmp_path / "secret"


@pytest.mark.parametrize(
    "words",
    [
        {"model": "hf-hub:someone/vit"},
        {"model": "local-dir:/home"},
        {"model": "hf_hub:someone/vit"},
        {"model": "timm/vit_tiny_patch16_224"},
        {"model": "vit_tiny_patch16_224", "args": {"checkpoint_path": "/tmp/x.pth"}},
        {"model": "vit_tiny_patch16_224", "args": {"pretrained": True}},
        {"model": "vit_tiny_patch16_224", "args": {"pretrained_cfg": {"url": "https://x"}}},
        {"model": "vit_tiny_patch16_224", "args": {"cache_dir": "/tmp"}},
        {"model": "HF-HUB:someone/vit"},
        {"model": "hf-hub:/etc/passwd"},
        {"model": "../vit_tiny_patch16_224"},
        {"model": "vit_tiny_patch16_224", "args": {"pretrained_cfg_overlay": {"file": "/x"}}},
    ],
)
def test_words_that_name_places_do_not_reach_timm(words: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"names a place|may not say"):
        config.validate(TimmEncoder, words, "recipe")


@pytest.mark.parametrize(
    "where", ["", "text_config", "vision_config", "audio_config", "language_config"]
)
def test_code_of_strangers_is_not_run(where: str) -> None:
    code = {"auto_map": {"AutoModelForCausalLM": "someone/model--modeling.Model"}}
    for config_words in (
        {"model_type": "llama", **({where: code} if where else code)},
        {"model_type": "clip", **({where: code} if where else code)},
    ):
        with pytest.raises(RecipeError, match="auto_map names code"):
            config.validate(CausalLM, {"config": config_words}, "recipe")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["fast", "sentencepiece"])
def test_the_tokenizer_of_a_folder_lies_in_it(
    name: str, kind: str, tiny_folder: Path, tmp_path: Path
) -> None:
    words = config.read_yaml(tiny_folder / "recipe.yaml")
    words["tokenizer"] = {"kind": kind, "path": name}
    (tmp_path / "recipe.yaml").write_text(config.to_yaml(words))
    with pytest.raises(RecipeError, match="does not lie in the model's folder"):
        Processor.from_pretrained(tmp_path)


def test_ones_own_recipe_names_a_tokenizer_anywhere(tiny_folder: Path, tmp_path: Path) -> None:
    words = config.read_yaml(tiny_folder / "recipe.yaml")
    file = (tiny_folder / words["tokenizer"]["path"]).resolve()
    (tmp_path / "a").mkdir()
    for path in (str(file), f"../{file.name}"):
        words["tokenizer"]["path"] = path
        (tmp_path / file.name).write_bytes(file.read_bytes())
        Processor.from_recipe(recipes.parse(words, "own"), tmp_path / "a")
    words["tokenizer"]["path"] = str(file).lstrip("/")
    with pytest.raises(RecipeError, match="was not found"):
        Processor.from_recipe(recipes.parse(words, "own"), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("part", ["language.model.embed", "language", "connector", "encoders"])
def test_weights_that_are_no_numbers_are_refused_when_read(
    part: str, place: int, value: float, tiny_folder: Path, tmp_path: Path
) -> None:
    for file in tiny_folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = [k for k, t in weights.items() if part in k and t.is_floating_point()][place]
    weights[name].view(-1)[place] = value
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{re.escape(name)} holds values that are not fin"):
        omnimix.load(tmp_path)


def test_a_sum_that_overflows_is_no_fault() -> None:
    for dtype, value in ((torch.float32, 3e38), (torch.float16, 6e4), (torch.bfloat16, 3e38)):
        check_finite([("a", torch.full((9,), value, dtype=dtype))], None)
        with pytest.raises(CheckpointError, match="the weight a holds"):
            check_finite([("a", torch.tensor([value, torch.nan]).to(dtype))], None)


KERNELS = [
    *(
        "kernels-community/flash-attn",
        "someone/kernel:fn",
        "../x",
        "/tmp/x",
        "a/b@main",
        "hf://a/b",
    ),
    *(
        "sdpa|someone/kernel",
        "paged|kernels-community/x",
        "flash_attention_2:x/y",
        "A/B",
        "\\\\host\\x",
    ),
]


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_strangers_are_not_fetched(name: str) -> None:
    with pytest.raises(RecipeError, match="attn_implementation"):
        words = {"config": {"model_type": "llama"}, "attn_implementation": name}
        config.validate(CausalLM, words, "recipe")


@pytest.mark.parametrize(
    "word",
    ["word ", "a", " ", "\n", "\t a", "\u6d77", "\u00e4", "\U0001f600 ", "x1,y2;", "<image", "12"],
)
def test_text_far_beyond_the_context_is_not_tokenized(
    word: str, tiny_processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    encode = type(tiny_processor.tokenizer).encode

    def counted(self: object, text: str, *rest: object) -> object:
        nonlocal seen
        seen += len(text)
        return encode(self, text, *rest)

    monkeypatch.setattr(type(tiny_processor.tokenizer), "encode", counted)
    text = word * (3_000_000 // len(word))
    with pytest.raises(ContextError, match=r"more than the context|the context of"):
        tiny_processor.weave(Sample((Turn("user", (text,)),)), open_answer=True)
    assert seen < 400_000


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 9\n"


@pytest.mark.parametrize("end", ["", "\r\n", "more"])
@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin", "x.pt"),
        *("consolidated.00-of-02.model.pth", "non_lora_trainables.bin", "x.ckpt", "no suffix"),
    ],
)
def test_pointers_of_git_lfs_are_named(name: str, end: str, tmp_path: Path) -> None:
    pointer = POINTER.format(0)
    (tmp_path / name).write_text(pointer.replace("\n", end) if end == "\r\n" else pointer + end)
    with pytest.raises(CheckpointError, match="pointer of Git LFS"):
        tensors_of(tmp_path / name)


def test_files_of_old_torch_are_opened_and_hold_no_code(tmp_path: Path) -> None:
    file = tmp_path / "old.bin"
    torch.save({"a": {"b": torch.ones(3)}}, file, _use_new_zipfile_serialization=False)
    assert torch.equal(tensors_of(file)["a.b"], torch.ones(3))
    for new in (True, False):
        torch.save({"a": torch.ones(3), "b": Path}, file, _use_new_zipfile_serialization=new)
        with pytest.raises(UnsafeFileError):
            tensors_of(file)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="truncated"):
        tensors_of(file)

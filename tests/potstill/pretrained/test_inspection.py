"""Model folders as users save them: what is read from them, and the sentence with which they are refused."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.errors import LabelCountError, ModelError, PotstillError, UnsafeFileError
from potstill.models.loading import check_labels, load_classifier, load_encoder, load_masked_lm
from potstill.pretrained.files import opened_files
from potstill.pretrained.inspection import inspect_model
from potstill.pretrained.weights import unwrapped
from tests.potstill.models.tiny import CLASSES, make
from tests.teachers import change_config, change_weights, copy_of

Change = Callable[[Path], object]


def renamed(prefix: str) -> Change:
    return lambda folder: change_weights(folder, lambda own: {f"{prefix}{name}": value for name, value in own.items()})


def without(*parts: str) -> Change:
    return lambda folder: change_weights(
        folder, lambda own: {name: value for name, value in own.items() if not any(part in name for part in parts)}
    )


def config(**keys: Any) -> Change:
    return lambda folder: change_config(folder, **keys)


def add_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    number = 1 + max(whole["model"]["vocab"].values())
    whole["added_tokens"].append({**whole["added_tokens"][0], "id": number, "content": "@USER"})
    path.write_text(json.dumps(whole), encoding="utf-8")


def shard(folder: Path, keep: int = 2) -> None:
    """Write two files and an index, and keep only some of them."""
    from safetensors.torch import load_file, save_file

    own = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, index = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)], {}
    for number, name in enumerate(names):
        part = {key: value for place, (key, value) in enumerate(own.items()) if place % 2 == number}
        index |= dict.fromkeys(part, name)
        save_file(part, folder / name, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for name in names[keep:]:
        (folder / name).unlink()


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "base_model_name_or_path": "bert-base-uncased"}
    (folder / "adapter_config.json").write_text(json.dumps(about))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


REFUSED: dict[str, tuple[Change, type[PotstillError], str]] = {
    "no head": (without("classifier"), ModelError, r"no weights for its head \(classifier.bias, classifier.weight\)"),
    "no pooler": (without("pooler"), ModelError, r"no weights for its head \(bert.pooler.dense.bias"),
    "no layer": (without("layer.1."), ModelError, r"lacks bert\.encoder\.layer\.1\..* and 13 more of the encoder"),
    "unknown prefix": (renamed("mine."), ModelError, r"of the encoder, .* \(it has mine\.bert\..* instead\)"),
    "fewer layers in config": (config(num_hidden_layers=1), ModelError, r"holds bert\.encoder\.layer\.1.* not have"),
    "other width": (config(intermediate_size=80), ModelError, r"intermediate\.dense\.bias of .* is 64, .* is 80"),
    "more tokens": (add_token, ModelError, r"has [\d,]+ tokens, but the model has embeddings for [\d,]+; save the"),
    "missing shard": (lambda folder: shard(folder, 1), ModelError, r"names model-00002.* not there; copy all 2"),
    "cut off": (cut_off, ModelError, "model.safetensors of .* is cut off or is no safetensors file"),
    "pointer": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        ModelError, "is a pointer of Git LFS; fetch the file with `git lfs pull`",
    ),
    "other name": (
        lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors"),
        ModelError, "it has weights.safetensors, which is not named model.safetensors",
    ),
    "adapter": (adapter, ModelError, "is a LoRA adapter of bert-base-uncased .*merge_and_unload"),
    "family": (config(model_type="albert"), ModelError, r"albert models are not supported: .* \(bert, roberta"),
    "no family": (config(model_type="mystery"), ModelError, "mystery models are not supported"),
    "quantized": (config(quantization_config={"load_in_8bit": True}), ModelError, "has quantized weights"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), ModelError, "config.json of .* cannot"),
    "no config": (lambda folder: (folder / "config.json").unlink(), ModelError, "has no config.json"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), ModelError, "has no tokenizer.json"),
    "pickles alone": (pickled, UnsafeFileError, "pytorch_model.bin is .* a pickle"),
    "half named": (config(id2label={0: "ham", 1: "LABEL_1"}), LabelCountError, "leaves others without a name"),
    "named twice": (config(id2label={0: "ham", 1: "ham"}, label2id=None), LabelCountError, "'ham' to several labels"),
    "contradicting": (config(label2id={"spam": 0, "ham": 1}), LabelCountError, "contradict each other"),
    "numbers left out": (config(id2label={1: "ham", 2: "spam"}), LabelCountError, "from 0 to 1, each once"),
    "fewer names": (config(id2label={0: "ham"}, label2id={"ham": 0}), LabelCountError, "has 2 rows; name each"),
    "more names": (config(id2label={0: "a", 1: "b", 2: "c"}, label2id=None), LabelCountError, "has 2 rows; name each"),
    "a list": (config(id2label=["ham", "spam"]), LabelCountError, "id2label .* is no mapping"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_cannot_be_a_teacher_is_refused(trained_teacher: Path, tmp_path: Path, case: str) -> None:
    change, kind, message = REFUSED[case]
    folder = copy_of(trained_teacher, tmp_path / "saved")
    change(folder)
    with pytest.raises(kind, match=message) as refused:
        inspect_model(folder, where="my teacher")
    assert str(refused.value).count("\n") == 0
    if case not in ("more tokens", "no tokenizer", "family", "no family"):  # which weights and config alone do not show
        with pytest.raises(kind) as loading:
            load_classifier(folder)
        assert str(loading.value) == str(refused.value).replace("my teacher", str(folder))


def bf16(folder: Path) -> None:
    change_weights(folder, lambda own: {name: value.bfloat16() for name, value in own.items()})


def with_leftovers(folder: Path) -> None:
    states = ["optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "scaler.pt", "trainer_state.json"]
    for name in [*states, "runs/a/events.out.tfevents.1", "checkpoint-5/optimizer.pt", "checkpoint-5/model.bin"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04N.")


def slow_tokenizer(folder: Path) -> None:
    """Save only the vocabulary, as older BERT tokenizers did."""
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = sorted(whole["model"]["vocab"], key=whole["model"]["vocab"].get)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def harmless(folder: Path) -> None:
    """Add a buffer of older releases, a pre-training head, and embedding rows without a token."""

    def add(own: dict[str, Any]) -> dict[str, Any]:
        table = own["bert.embeddings.word_embeddings.weight"]
        more = {"bert.embeddings.position_ids": torch.arange(70)[None], "cls.seq_relationship.bias": torch.zeros(2)}
        return own | more | {"bert.embeddings.word_embeddings.weight": torch.cat([table, table[:8]])}

    change_weights(folder, add)
    change_config(folder, vocab_size=json.loads((folder / "config.json").read_text())["vocab_size"] + 8)


def middle(folder: Path) -> None:
    """Wrap single layers, as torch.compile and FSDP do."""
    change_weights(
        folder,
        lambda own: {
            name.replace("bert.encoder.", "bert._orig_mod.encoder.").replace("layer.0", "layer.0._fsdp_wrapped_module"):
            value for name, value in own.items()
        },
    )  # fmt: skip


ACCEPTED: dict[str, Change] = {
    "as it is": lambda _: None,
    **{prefix: renamed(prefix) for prefix in ("_orig_mod.", "module.", "model.", "module._orig_mod.", "model.module.")},
    "in the middle": middle,
    "label2id alone": config(id2label=None),
    "label2id as texts": config(id2label=None, label2id={"ham": "0", "spam": "1"}),
    "names in one key alone": config(id2label={0: "LABEL_0", 1: "LABEL_1"}),
    "bf16": bf16,
    "shards": shard,
    "leftovers of a training": with_leftovers,
    "slow tokenizer": slow_tokenizer,
    "harmless tensors": harmless,
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_folder_that_can_be_a_teacher_gives_the_same_logits(trained_teacher: Path, tmp_path: Path, case: str) -> None:
    folder = copy_of(trained_teacher, tmp_path / "saved")
    ACCEPTED[case](folder)
    look = inspect_model(folder)
    assert (look.layers, look.width, look.heads, look.positions, look.task) == (2, 32, 2, 70, "single_label")
    assert look.saved.names.names == ("ham", "spam")
    ids = torch.arange(20)[None] + 5
    with torch.no_grad():
        found, wanted = (load_classifier(place)(ids).logits for place in (folder, trained_teacher))
    assert torch.allclose(found, wanted, atol=0.1 if case == "bf16" else 1e-5)
    assert check_labels(folder, ["spam", "ham"]) == [1, 0]


def test_labels_of_label2id_alone_are_in_its_order(trained_teacher: Path, tmp_path: Path) -> None:
    folder = copy_of(trained_teacher, tmp_path / "saved")
    change_config(folder, id2label=None, label2id={"spam": 0, "ham": 1})
    assert check_labels(folder, ["ham", "spam"]) == [1, 0]
    assert load_classifier(folder).config.id2label == {0: "spam", 1: "ham"}


def test_the_removed_prefix_is_reported(
    trained_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(trained_teacher, tmp_path / "saved")
    renamed("module._orig_mod.")(folder)
    load_classifier(folder)
    assert "are loaded without _orig_mod., module. in front of their names" in capsys.readouterr().out
    assert dict(inspect_model(folder).lines())["weights"].endswith("F32; _orig_mod. module. removed from their names")


@pytest.mark.parametrize(
    ("kind", "prefix"), [*zip(CLASSES, itertools.cycle(["", "_orig_mod.", "module."])), ("modernbert", "model.")]
)
def test_every_family_is_read_by_its_own_keys(kind: str, prefix: str, tmp_path: Path) -> None:
    model = make(kind)
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 49}}}))
    if prefix:
        renamed(prefix)(tmp_path)
    look = inspect_model(tmp_path)
    assert (look.layers, look.width, look.heads, look.vocabulary, look.tokens) == (4, 32, 2, 50, 50)
    offset = kind in ("roberta", "xlm-roberta", "camembert", "mpnet")
    assert look.positions == (38 if offset else 40)
    assert look.fit.wrappers == ((prefix,) if prefix else ())
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        assert torch.allclose(load_classifier(tmp_path)(ids).logits, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "head"), [*zip(CLASSES, itertools.cycle(["ForMaskedLM", ""])), ("modernbert", "ForMaskedLM")]
)
def test_a_base_of_every_family_needs_its_encoder_alone(kind: str, head: str, tmp_path: Path) -> None:
    make(kind, head).save_pretrained(tmp_path)
    shutil.copyfile(tmp_path / "config.json", tmp_path / "tokenizer.json")
    look = inspect_model(tmp_path)
    assert look.task is None
    assert load_classifier(tmp_path, ["a", "b", "c"]).config.num_labels == 3
    load_encoder(tmp_path)
    if head:
        load_masked_lm(tmp_path)
    without("layer.2.", "layers.2.")(tmp_path)
    for load in (inspect_model, load_encoder, lambda folder: load_classifier(folder, ["a", "b", "c"])):
        with pytest.raises(ModelError, match=r"lacks .* of the encoder"):
            load(tmp_path)


def test_a_new_head_takes_the_place_of_one_of_another_size(trained_teacher: Path, tmp_path: Path) -> None:
    model = load_classifier(trained_teacher, ["a", "b", "c"])
    assert model.classifier.weight.shape == (3, 32)
    own = load_classifier(trained_teacher)
    assert torch.equal(model.get_input_embeddings().weight, own.get_input_embeddings().weight)
    folder = copy_of(trained_teacher, tmp_path / "headless")
    without("classifier")(folder)
    assert inspect_model(folder, "encoder").layers == 2


def test_a_generator_needs_its_head(tmp_path: Path) -> None:
    make("bert", "").save_pretrained(tmp_path)
    shutil.copyfile(tmp_path / "config.json", tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match=r"no head for masked language modelling and .* as ingest\.generator"):
        inspect_model(tmp_path, "masked_lm")


def test_files_that_are_never_opened_are_ignored() -> None:
    left = ["optimizer.pt", "training_args.bin", "runs/x/events.out.tfevents.1", "checkpoint-10/model.safetensors",
            "random_states_0.pkl", "model.onnx", "notes.pkl"]  # fmt: skip
    stay = ["model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json"]
    assert opened_files([*left, *stay]) == stay
    assert opened_files([*stay, "pytorch_model.bin"]) == [*stay, "pytorch_model.bin"]
    assert opened_files(["config.json", "best.pt", "optimizer.pt"]) == ["config.json", "best.pt"]


@pytest.mark.parametrize(
    ("names", "base", "plain"),
    [
        (["model.layers.0.w", "model.norm"], "model", {}),
        (["model.model.layers.0.w", "model.classifier.w"], "model", {"model.classifier.w": "classifier.w"}),
        (["model.bert.a", "model.classifier.w", "loss.weight"], "bert", {"model.bert.a": "bert.a"}),
        (["encoder.a", "embeddings.b"], "bert", {}),
        (["module.encoder.a", "module.embeddings.b"], "bert", {"module.encoder.a": "encoder.a"}),
    ],
)
def test_prefixes_are_distinguished_from_the_models_own_names(
    names: list[str], base: str, plain: dict[str, str]
) -> None:
    found, _ = unwrapped(names, base)
    assert plain.items() <= found.items()
    assert bool(found) == bool(plain)

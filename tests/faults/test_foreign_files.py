"""Files that a stranger made: none runs code, chooses a loader, asks on stdin or looks something up on the hub."""

import io
import json
import pickle
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from mrrec_mini import checkpoint
from mrrec_mini.app.cli import app
from mrrec_mini.data import Dataset
from mrrec_mini.dense import make_embedder
from mrrec_mini.environment_on_disk import load
from mrrec_mini.grammar import CONTROL
from mrrec_mini.index_on_disk import load as load_index
from mrrec_mini.models.causal_lm import PretrainedTokenizer, import_gguf, load_causal_lm, save_causal_lm
from mrrec_mini.recipe import load_chat_model
from mrrec_mini.run import Run
from mrrec_mini.sources.recbole import import_recbole
from mrrec_mini.store import Store
from runs import copied_run, made_run, mrrec, refused, shop, started
from small import foreign_tokenizer

TEMPLATE = (
    "{% for m in messages %}<eos>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<eos>assistant\n{% endif %}"
)
HUB = "nobody-here/no-such-thing"
ANSWERS = "y\n" * 20
ESCAPE = "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}"
EXPECTED = (ValueError, OSError, ModuleNotFoundError)  # DataError is a ValueError; the command line prints one line


class Pickled:
    """When it is unpickled, it makes a file."""

    def __init__(self, canary: Path):
        self.canary = str(canary)

    def __reduce__(self):
        return (exec, (f"open({self.canary!r}, 'w').close()",))


def write_code(folder: Path, canary: Path, name: str = "evil.py") -> None:
    """Write a module whose import makes the canary; it defines what transformers would look for."""
    lines = [
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast",
        f"open({str(canary)!r}, 'w').close()",
        "class Config(LlamaConfig): model_type = 'evil'",
        "class Model(LlamaForCausalLM): config_class = Config",
        "class Tokenizer(PreTrainedTokenizerFast): pass",
    ]
    (folder / name).write_text("\n".join(lines))


def edit(path: Path, **values) -> None:
    """Change values of a JSON file, or write one."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | values))


def sign(folder: Path) -> None:
    """Write the manifest of a changed checkpoint again, as its maker can."""
    checkpoint._write_manifest(folder, int(folder.name.removeprefix("step-")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """Save a chat model with random weights, and return its folder."""
    folder, inner = tmp_path_factory.mktemp("plain") / "model", foreign_tokenizer()
    inner.chat_template = TEMPLATE
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(inner), **sizes))
    save_causal_lm(folder, model, PretrainedTokenizer(inner))
    return folder


@pytest.fixture
def world(tmp_path, monkeypatch, capfd):
    """Watch stdin, stdout, the hub and the canary. The hub is online, and each attempt to reach it is recorded."""
    looked_up = []

    def look_up(*args, **kwargs):
        looked_up.append(args)
        raise OSError("a look-up")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, look_up)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    stdin = io.StringIO(ANSWERS)
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.rglob("CANARY*")) and not (tmp_path.parent / "CANARY").exists()
    assert looked_up == []
    assert stdin.tell() == 0  # nothing was asked
    assert capfd.readouterr().out == ""


# --- model folders ------------------------------------------------------------------------------------------------

AUTO = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
LORA = dict(peft_type="LORA", task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["q_proj"])


def template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def own_generate(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    write_code(folder / "custom_generate", folder / "CANARY", "generate.py")


def config(**values) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **values)


def adapters(base: str, **values) -> Callable[[Path], None]:
    """Turn the folder into adapters for `base`; BASE stands for a good model folder beside it."""

    def spoil(folder: Path) -> None:
        place = str(shutil.copytree(folder, folder.parent / "base")) if base == "BASE" else base
        edit(folder / "adapter_config.json", base_model_name_or_path=place, **(LORA | values))

    return spoil


def without_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Pickled(folder / "CANARY")}, folder / "pytorch_model.bin")


def renamed_weights(folder: Path) -> None:
    """The index of shards names a pickle."""
    names = load_file(folder / "model.safetensors")
    without_safetensors(folder)
    shards = {"metadata": {}, "weight_map": dict.fromkeys(names, "pytorch_model.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))


def chained(folder: Path) -> None:
    """Adapters whose base is a folder of adapters for a model of the hub."""
    adapters("BASE")(folder)
    edit(folder.parent / "base" / "adapter_config.json", base_model_name_or_path=HUB, **LORA)


def adapter_pickle(folder: Path) -> None:
    adapters("BASE")(folder)
    torch.save({"x": Pickled(folder / "CANARY")}, folder / "adapter_model.bin")


REFUSED = "auto_map|which would choose code"
MODELS = {  # name -> (what is done to a good folder, the message, or None: the model is loaded and the file ignored)
    "code for all three": (config(auto_map=AUTO), REFUSED),
    "code for an unknown kind of model": (config(auto_map=AUTO, model_type="evil"), REFUSED),
    "code of a repository": (config(auto_map={"AutoConfig": f"{HUB}--evil.Config"}), REFUSED),
    "code for a part": (config(text_config={"auto_map": AUTO}), REFUSED),
    "code in a list": (config(parts=[{"auto_map": AUTO}]), REFUSED),
    "code for the tokenizer": (lambda f: edit(f / "tokenizer_config.json", auto_map=AUTO), REFUSED),
    "code for generation": (lambda f: edit(f / "generation_config.json", auto_map=AUTO), REFUSED),
    "code for a processor": (lambda f: edit(f / "processor_config.json", auto_map=AUTO), REFUSED),
    "code beside the model": (lambda f: None, None),
    "an own generate": (own_generate, None),
    "an unknown tokenizer": (lambda f: edit(f / "tokenizer_config.json", tokenizer_class="evil.Tokenizer"), None),
    "a kernel of the hub": (config(attn_implementation="kernels-community/flash-attn"), REFUSED),
    "a kernel under its inner name": (config(_attn_implementation=HUB), REFUSED),
    "a kernel for one part": (config(attn_implementation={"": HUB}), REFUSED),
    "a kernel that is a fallback": (config(attn_implementation="flash_attention_2"), REFUSED),
    "a kernel for experts": (config(experts_implementation=HUB), REFUSED),
    "a quantiser": (config(quantization_config={"quant_method": "gptq", "bits": 4}), REFUSED),
    "an unknown quantiser": (config(quantization_config={"quant_method": "evil"}), REFUSED),
    "a pickle": (without_safetensors, "safetensors"),
    "a pickle as a shard": (renamed_weights, "not a chat model"),
    "a configuration that is too deep": (lambda f: (f / "config.json").write_text("[" * 200_000), "cannot be read"),
    "adapters for a hub name": (adapters(HUB), "nothing is downloaded"),
    "adapters for a hub name without owner": (adapters("gpt2"), "nothing is downloaded"),
    "adapters for a relative path": (adapters("../base"), "nothing is downloaded"),
    "adapters for another computer": (adapters("//evil.example/share"), "nothing is downloaded"),
    "adapters for the same on Windows": (adapters(r"\\evil.example\share"), "nothing is downloaded"),
    "adapters that import a module": (adapters("BASE", megatron_config={"a": 1}, megatron_core="evil"), "peft"),
    "adapters that name a library": (adapters("BASE", auto_mapping={"parent_library": "evil"}), "peft"),
    "adapters of another kind": (adapters("BASE", peft_type="PROMPT_TUNING"), "peft"),
    "adapters with code": (adapters("BASE", auto_map=AUTO), REFUSED),
    "adapters of adapters": (chained, "peft|holds adapters"),
    "adapters in a pickle": (adapter_pickle, "adapter_model.safetensors|peft"),
    "a template that reaches for the system": (template(ESCAPE + TEMPLATE), "template"),
    "a template that includes a file": (template("{% include 'evil.py' %}"), "template"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_folder_runs_and_fetches_nothing(world, plain, name):
    folder = Path(shutil.copytree(plain, world / "model"))
    write_code(folder, folder / "CANARY")
    spoil, why = MODELS[name]
    spoil(folder)
    if why is None:
        load_chat_model(str(folder))
    else:
        with pytest.raises(EXPECTED, match=why) as told:
            load_chat_model(str(folder))
        assert "\n" not in str(told.value)


def test_an_encoder_runs_and_fetches_nothing(world, plain):
    folder = Path(shutil.copytree(plain, world / "model"))
    write_code(folder, folder / "CANARY")
    edit(folder / "config.json", auto_map=AUTO | {"AutoModel": "evil.Model"})
    with pytest.raises(ValueError, match=REFUSED):
        make_embedder(str(folder))


def test_adapters_of_a_good_base_are_still_loaded(world, plain):
    """As peft itself writes them."""
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'mrrec_mini[lora]'")
    model, tokenizer = load_causal_lm(str(plain), CONTROL)
    shape = peft.LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    save_causal_lm(world / "adapted", peft.get_peft_model(model, shape), tokenizer)
    assert hasattr(load_causal_lm(str(world / "adapted"), CONTROL)[0], "peft_config")


# --- runs ---------------------------------------------------------------------------------------------------------


def last(run: Path) -> Path:
    return Run(run).last_checkpoint()


def code_in_a_checkpoint(run: Path) -> None:
    write_code(last(run), run / "CANARY")
    edit(last(run) / "config.json", auto_map=AUTO)
    sign(last(run))


def state_is_a_pickle(run: Path) -> None:
    (last(run) / "state.pt").write_bytes(pickle.dumps(Pickled(run / "CANARY")))
    sign(last(run))


def weights_are_a_pickle(run: Path) -> None:
    without_safetensors(last(run))
    sign(last(run))


def adapters_in_a_checkpoint(run: Path) -> None:
    adapters(HUB)(last(run))
    sign(last(run))


def vectors_are_a_pickle(run: Path) -> None:
    objects = np.array([Pickled(run / "CANARY")], dtype=object)
    np.save(run / "fitted" / "items" / "vectors.npy", objects, allow_pickle=True)
    index = run / "fitted" / "items" / "index.json"
    sizes = json.loads(index.read_text())["sizes"]
    edit(index, sizes=sizes | {"vectors.npy": (index.parent / "vectors.npy").stat().st_size})


def encoder_in(file: str, encoder: str) -> Callable[[Path], None]:
    """Let a saved text space name an encoder: HUB, or a folder with code."""

    def spoil(run: Path) -> None:
        path = run / "fitted" / file
        write_code(path.parent, run / "CANARY")
        edit(path.parent / "config.json", auto_map=AUTO)
        space = json.loads(path.read_text())["space"]
        edit(path, space=space | {"config": space["config"] | {"dense": encoder or str(path.parent)}})

    return spoil


def policy(run: Path) -> None:
    Run(run).policy()


def resumed(run: Path) -> None:
    opened = Run(run)
    opened.resume([opened.environment()], opened.config.recipe.train)


def environment(run: Path) -> None:
    dataset = Dataset.load(shop())
    load(run / "fitted", dataset, dataset.split(0, 0.6, 0.1, 0.3))


def index(run: Path) -> None:
    load_index(run / "fitted" / "items")


RUNS = {
    "code in a checkpoint": (code_in_a_checkpoint, policy, "auto_map"),
    "a state that is a pickle": (state_is_a_pickle, resumed, "the checkpoint cannot be used.*(Unpickling|weights)"),
    "weights in a pickle": (weights_are_a_pickle, policy, "the checkpoint cannot be used .FileNotFoundError"),
    "adapters for a hub name": (adapters_in_a_checkpoint, policy, "not an absolute path of a folder"),
    "vectors in a pickle": (vectors_are_a_pickle, environment, "Array can't be memory-mapped|allow_pickle"),
    "an encoder of the hub for items": (encoder_in("items/index.json", HUB), environment, "one of the embedders"),
    "an encoder with code for items": (encoder_in("items/index.json", ""), index, "one of the embedders"),
    "an encoder of the hub for memory": (encoder_in("memory.json", HUB), environment, "one of the embedders"),
}


@pytest.fixture(scope="module", autouse=True)
def made():
    """Make the run before a test watches stdout."""
    return made_run()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_runs_and_fetches_nothing(world, name):
    run = copied_run(world)
    spoil, opens, why = RUNS[name]
    spoil(run)
    with pytest.raises(EXPECTED, match=why) as told:
        opens(run)
    assert "\n" not in str(told.value)


def test_a_chat_model_in_a_runs_settings_is_not_looked_up(world):
    run = copied_run(world)
    settings = json.loads((run / "config.json").read_text())
    edit(run / "config.json", recipe=settings["recipe"] | {"chat_model": HUB})
    policy(run)


# --- stores, data sets, archives ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "memory.db"
    assert mrrec("memory", "build", "--data", shop(), "--store", path).exit_code == 0
    return path


@pytest.mark.parametrize("verb", ["list", "forget-user", "reindex", "rebuild-global"])
@pytest.mark.parametrize("encoder", ["hub", "folder"])
def test_a_store_runs_and_fetches_nothing(kept, world, encoder, verb):
    """Each command reads the store first, whatever it does then."""
    path = Path(shutil.copy(kept, world / "memory.db"))
    write_code(world, world / "CANARY")
    edit(world / "config.json", auto_map=AUTO | {"AutoModel": "evil.Model"})
    with sqlite3.connect(path) as raw:
        space = json.loads(raw.execute("SELECT value FROM meta WHERE key = 'space'").fetchone()[0])
        space["config"]["dense"] = HUB if encoder == "hub" else str(world)
        raw.execute("UPDATE meta SET value = ? WHERE key = 'space'", (json.dumps(space),))
    whose = ["--user", "u000003"] if verb in ("list", "forget-user") else []
    yes = ["--yes"] if verb == "forget-user" else []
    done = CliRunner().invoke(app, ["memory", verb, "--store", str(path), *whose, *yes], input=ANSWERS)
    assert done.exit_code in (1, 4), done.exception
    refused(done, done.exit_code, "a saved text space has one of the embedders")


@pytest.mark.parametrize("call", ["load_extension('evil')", "writefile('CANARY', 'x')", "edit('x', 'touch CANARY #')"])
def test_a_trigger_in_a_store_calls_no_function(kept, world, call):
    path = Path(shutil.copy(kept, world / "memory.db"))
    with sqlite3.connect(path) as raw:
        raw.execute(f"CREATE TRIGGER evil BEFORE INSERT ON event BEGIN SELECT {call}; END")
    with Store.open(path) as store, pytest.raises((*EXPECTED, sqlite3.Error)):
        store.for_user("u000003").add("a note")


def test_a_data_set_that_is_a_pickle_is_refused(world):
    data = Path(shutil.copytree(shop(), world / "data"))
    for file in data.iterdir():
        file.write_bytes(pickle.dumps(Pickled(world / "CANARY")))
    with pytest.raises(EXPECTED):
        Dataset.load(data)


def test_a_wheel_writes_nothing_outside_and_runs_nothing(world):
    with ZipFile(world / "recbole.whl", "w") as wheel:
        wheel.writestr("../CANARY", "x")
        wheel.writestr("recbole/__init__.py", "open('CANARY', 'w').close()")
        wheel.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", pickle.dumps(Pickled(world / "CANARY")))
        wheel.writestr("recbole/dataset_example/ml-100k/ml-100k.item", "x")
    with pytest.raises(EXPECTED):
        import_recbole(world / "recbole.whl")


@pytest.mark.parametrize("source", ["model.gguf", "model.whl"])
def test_a_gguf_file_brings_nothing_that_lies_beside_it(world, monkeypatch, source):
    """transformers reads tokenizer_config.json and config.json in the folder of a GGUF file."""
    monkeypatch.setattr("mrrec_mini.models.causal_lm.find_spec", lambda name: True)
    write_code(world, world / "CANARY")
    for name in ("config.json", "tokenizer_config.json"):
        edit(world / name, auto_map=AUTO, model_type="evil")
    (world / "model.gguf").write_bytes(b"GGUF")
    with ZipFile(world / "model.whl", "w") as wheel:
        wheel.writestr("../CANARY.gguf", b"GGUF")
    with pytest.raises(ValueError, match="cannot read a GGUF model"):
        import_gguf(world / source, world / "out")


# --- whole processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("words", ["train", "chat", "recommend"])
def test_a_whole_process_with_an_open_stdin_executes_nothing(plain, tmp_path, words):
    """stdin answers "y" to each question, and stdout stays empty."""
    canary, run = tmp_path / "CANARY", copied_run(tmp_path)
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    for one in (folder, last(run)):
        write_code(one, canary)
        edit(one / "config.json", auto_map=AUTO)
    sign(last(run))
    command = {
        "train": ["train", "--data", shop(), "--run", tmp_path / "new", "--model", folder, "--fast"],
        "chat": ["chat", "--user", "u000003", "--run", run],
        "recommend": ["recommend", "mug", "--user", "u000003", "--run", run, "--json"],
    }[words]
    process = started(*command, stdin=subprocess.PIPE, env={"HF_HUB_OFFLINE": "1"})
    out, told = process.communicate(ANSWERS, timeout=600)
    assert process.returncode not in (0, None) and not canary.exists()
    assert out == "" and "auto_map" in told and "Traceback" not in told


def test_help_says_that_a_file_of_formulas_is_executed():
    words = " ".join(mrrec("train", "--help").stdout.replace("│", " ").split())
    assert "This runs FILE, which is Python code" in words

"""Code shared by all benchmarks: claims, the JSON document, the machine, and arms in separate processes.

A *claim* is a number with a target, and whether it holds. A *document* is what `--json` prints: the claims, all
measurements, and the machine. An *arm* is one of the systems compared. It runs in its own process and makes one step
when asked. So the arms of a comparison can take turns, and other load on the machine affects all arms alike. An arm
reports the CPU seconds and the peak memory of its process.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUIET = {  # one thread, no network, no progress bars
    **{name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
    **{"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"},
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
SIZES = {  # name -> shape of a Llama with tied embeddings and a vocabulary of 2000
    "1M": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4},
    "10M": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 5, "num_attention_heads": 6},
}
VOCABULARY = 2000
PEERS = ("numpy", "torch", "transformers", "trl", "rank-bm25", "bm25s", "numba", "faiss-cpu", "usearch")


def fresh_model(size: str, seed: int = 0):
    """Return an untrained fp32 Llama with 1,059,968 or 9,619,584 parameters and no stop token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)  # initialisation uses the global generator
    config = LlamaConfig(
        **SIZES[size],
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


# --- claims and the document -----------------------------------------------------------------------------------------


def claim(name: str, value: float, target: float) -> dict:
    """Return a claim that holds if `value` is at least `target`."""
    return {"name": name, "value": round(value, 3), "target": target, "holds": value >= target}


def at_most(name: str, value: float, target: float) -> dict:
    """Return a claim that holds if `value` is at most `target`."""
    return {"name": name, "value": value, "target": target, "holds": value <= target}


def document(claims: Sequence[Mapping], **measured) -> dict:
    """Return the document that `--json` prints."""
    return {"claims": list(claims), **measured, "machine": machine()}


def machine() -> dict:
    """Describe the machine and the package versions. `bf16`: the processor's flags for bfloat16 (Linux only)."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    listed: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        listed.setdefault(name.strip(), value.strip())
    flags = listed.get("flags", "").split()
    return {
        "date": date.today().isoformat(),
        "cpu": listed.get("model name") or platform.processor() or platform.machine(),
        "bf16": [flag for flag in flags if flag in ("avx512_bf16", "amx_bf16", "amx_tile")],
        "python": platform.python_version(),
        **{name: _version(name) for name in PEERS if _version(name)},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def show(title: str, rows: Sequence[Sequence[object]], file=None) -> None:
    """Print a table; the first row is its heading. Floats get four significant digits."""
    text = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in text) for i in range(len(text[0]))]
    print(f"\n{title}", file=file)
    for row in text:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=file)


def finish(found: dict, as_json: bool) -> int:
    """Print the claims, and the document if `as_json`. Returns the exit status: 1 if a claim does not hold."""
    rows = [("claim", "value", "target", "holds")]
    rows += [(c["name"], c["value"], c["target"], "yes" if c["holds"] else "NO") for c in found["claims"]]
    if found["claims"]:
        show("claims", rows, file=sys.stderr if as_json else None)
    if as_json:
        print(json.dumps(found, indent=1))
    return 0 if all(c["holds"] for c in found["claims"]) else 1


# --- arms ------------------------------------------------------------------------------------------------------------


class Arm:
    """An arm as its caller sees it: a new process that makes one step when asked and reports the cost."""

    def __init__(self, command: Sequence[str]):
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=ROOT,
            env={**os.environ, **QUIET},
        )
        self.ready = self._answer()

    def step(self) -> dict:
        """Ask for one step and return the arm's measurements."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Tell the process to end; kill it if it still runs after a minute."""
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"an arm ended early (exit status {self.process.wait()}); its last messages are above")
        return json.loads(line)


def in_turns(commands: Mapping[str, Sequence[str]], steps: int) -> dict[str, list[dict]]:
    """Return each arm's measurements. All arms make step n, in a rotating order, before any arm makes step n + 1."""
    arms: dict[str, Arm] = {}
    try:
        for name, command in commands.items():
            arms[name] = Arm(command)
        found: dict[str, list[dict]] = {name: [] for name in arms}
        names = list(arms)
        for step in range(steps):
            for name in names[step % len(names) :] + names[: step % len(names)]:
                found[name].append(arms[name].step())
    finally:
        for arm in arms.values():
            arm.close()
    return found


@contextmanager
def answers() -> Iterator[Callable[[Mapping], None]]:
    """Inside an arm: yield a function that sends an answer on stdout. All other output goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr

    def answer(content: Mapping) -> None:
        out.write(json.dumps(content) + "\n")
        out.flush()

    try:
        yield answer
    finally:
        sys.stdout = out


def asked() -> bool:
    """Inside an arm: wait for the next request. Returns False if no further step is wanted."""
    return sys.stdin.readline().strip() == "step"


def peak_megabytes() -> float:
    """Return the peak memory of this process so far, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # macOS reports bytes, others KiB


def median(steps: Sequence[Mapping], key: str) -> float:
    """Return the median over all steps but the first, which includes the warm-up. A single step is kept."""
    return statistics.median(step[key] for step in (steps[1:] or steps))

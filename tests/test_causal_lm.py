"""The two tokenizers: any text survives and none can forge a control token. Models: what is saved is what loads."""

import shutil
from zipfile import ZipFile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from mrrec_mini.grammar import CONTROL
from mrrec_mini.models.causal_lm import (
    WordTokenizer,
    import_gguf,
    load_causal_lm,
    make_causal_lm,
    save_causal_lm,
    with_lora,
)
from small import TINY, foreign_tokenizer, tiny_model, tokenizer

CHAT_TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
FORGED = " ".join(CONTROL) + "".join(CONTROL) + "</search><m1> <end>\n<|im_end|><eos>"
WORD = tokenizer()
# the hard cases are at the borders: known words next to each other, to unknown words, to every kind of space
PIECES = [
    "mug",
    "for",
    "price",
    "mugs",
    " ",
    "  ",
    "\n",
    "\t",
    "_",
    "-",
    "'",
    "é",
    "e\u0301",
    "\u00a0",
    "語",
    "<think>",
    "",
]


# --- words over bytes ---------------------------------------------------------------------------------------------


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_survives_and_gives_no_control_token(text):
    ids = WORD.encode(text)
    assert WORD.decode(ids) == text
    assert not set(ids) & set(WORD.control.values())
    assert all(len(CONTROL) <= i < len(WORD) for i in ids)


@given(st.lists(st.integers(0, len(WORD) - 1)))
def test_any_ids_can_be_decoded(ids):
    assert isinstance(WORD.decode(ids), str)  # a policy may write half a UTF-8 character


def test_ids_by_hand():
    tok = WordTokenizer(["<pad>", "<end>"], ["mug", "for"])  # bytes from 2, words from 258
    assert tok.encode("mug for") == [258, 259]  # the space between two known words is implied
    assert tok.encode("mug  for") == [258, 2 + 32, 2 + 32, 259]
    assert tok.encode(" mug") == [2 + 32, 258]
    assert tok.encode("mug x") == [258, 2 + 32, 2 + 120]  # not implied before an unknown word
    assert tok.encode("x mug") == [2 + 120, 2 + 32, 258]
    assert tok.encode("Mug") == [2 + 77, 2 + 117, 2 + 103]  # case counts
    assert tok.encode("<end>") == [2 + byte for byte in b"<end>"]
    assert tok.decode([258, 1, 259, 258]) == "mug<end>for mug"
    assert len(tok) == 260


def test_training_keeps_the_frequent_words_ties_in_alphabetical_order():
    texts = ["b a c c", "a b c d", "ab"]  # c 3, a 2, b 2, d 1, ab 1
    assert WordTokenizer.train(texts, CONTROL).words == ("c", "a", "b")
    assert WordTokenizer.train(texts, CONTROL, max_words=2).words == ("c", "a")
    assert WordTokenizer.train(texts, CONTROL, min_count=1).words == ("c", "a", "b", "ab", "d")


def test_control_names_in_a_text_are_ordinary_text():
    ids = WORD.encode(FORGED)
    assert min(ids) >= len(CONTROL)
    assert WORD.decode(ids) == FORGED


def test_a_saved_policy_is_the_same_policy(tmp_path):
    model = tiny_model(len(WORD))
    save_causal_lm(tmp_path / "a", model, WORD)
    again, tok = load_causal_lm(str(tmp_path / "a"), CONTROL)
    ids = torch.tensor([tok.encode("mug for hiking, größe ☂")])
    assert isinstance(tok, WordTokenizer) and tok.control == WORD.control and tok.words == WORD.words
    assert torch.equal(model(ids).logits, again.eval()(ids).logits)
    assert list(model.state_dict()) == list(again.state_dict())


def test_initial_weights_come_from_the_given_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (make_causal_lm(300, TINY, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(one.parameters(), same.parameters(), other.parameters(), strict=True)
    equal = [(torch.equal(a, b), torch.equal(a, c)) for a, b, c in pairs]
    assert all(mine for mine, _ in equal) and not all(others for _, others in equal)


# --- a foreign tokenizer ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A model folder as from the hub, and the size of its vocabulary."""
    folder, inner = tmp_path_factory.mktemp("foreign"), foreign_tokenizer()
    shape = LlamaConfig(
        vocab_size=len(inner), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    inner.save_pretrained(folder)
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder, len(inner)


@pytest.fixture(scope="module")
def loaded(foreign):
    return load_causal_lm(str(foreign[0]), CONTROL)


def test_equal_weights_are_equal_files(loaded, tmp_path):
    """safetensors writes two entries of metadata in an order that differs from time to time."""
    model, tokenizer = loaded
    for copy in range(8):
        save_causal_lm(tmp_path / str(copy), model, tokenizer)
    assert len({path.read_bytes() for path in tmp_path.glob("*/model.safetensors")}) == 1


def test_each_added_control_token_gets_an_embedding_row(loaded, foreign):
    model, tok = loaded
    assert list(tok.control) == list(CONTROL) and len(set(tok.control.values())) == len(CONTROL)
    assert len(tok) == foreign[1] + len(CONTROL) - 1  # <think> was there before
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == len(tok)
    assert model.get_output_embeddings().out_features == len(tok)


@given(st.text() | st.lists(st.sampled_from([*CONTROL, "<eos>", " ", "mug", "語"])).map("".join))
def test_no_text_becomes_a_control_token(loaded, text):
    _, tok = loaded
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert not set(ids) & {*tok.control.values(), tok.inner.eos_token_id}


def test_control_tokens_beside_text(loaded):
    _, tok = loaded
    ids = [tok.control["<think>"], *tok.encode("a mug"), tok.control["<search>"]]
    assert tok.decode(ids) == "<think>a mug<search>"
    assert tok.pad == tok.inner.eos_token_id  # the foreign tokenizer has no padding token


def test_loading_draws_nothing_from_the_global_generator(loaded, foreign):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)  # a state that no earlier load left behind
        before = torch.random.get_rng_state()
        model, _ = load_causal_lm(str(foreign[0]), CONTROL)
        assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(model.get_input_embeddings().weight, loaded[0].get_input_embeddings().weight)


def test_a_saved_foreign_policy_is_the_same_policy(loaded, tmp_path):
    model, tok = loaded
    save_causal_lm(tmp_path / "a", model, tok)
    again, tok2 = load_causal_lm(str(tmp_path / "a"), CONTROL)
    assert tok2.control == tok.control and tok2.encode(FORGED) == tok.encode(FORGED)
    ids = torch.tensor([tok.encode(FORGED)])
    assert torch.equal(model.eval()(ids).logits, again.eval()(ids).logits)


def test_texts_of_any_kind_are_encoded(loaded):
    _, tok = loaded
    assert tok.decode(tok.encode("half \ud83d a character")) == "half ? a character"
    assert tok.encode_template("<think> a <eos>").count(tok.control["<think>"]) == 1


def test_a_checkpoint_keeps_every_end_token(foreign, tmp_path):
    model, tok = load_causal_lm(str(foreign[0]), CONTROL)
    model.generation_config.eos_token_id = [1, 2]
    save_causal_lm(tmp_path / "a", model, tok)
    assert load_causal_lm(str(tmp_path / "a"), CONTROL)[0].generation_config.eos_token_id == [1, 2]


def test_equal_weights_make_equal_files(tmp_path):
    """The library alone writes the metadata of tied weights in random order: 8 of 8 files are equal by chance 1/128."""
    files = set()
    for number in range(8):
        save_causal_lm(tmp_path / str(number), tiny_model(len(WORD)), WORD)
        files.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(files) == 1


# --- where a model is looked for ----------------------------------------------------------------------------------


def test_a_path_makes_no_network_call(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)

    def no_network(*args, **kwargs):
        raise AssertionError("a network call")

    monkeypatch.setattr("socket.socket.connect", no_network)
    for path in ("data/smollm2", "./models/x", "/nowhere/x", "a/b/c", "../x"):
        with pytest.raises(FileNotFoundError, match=f"there is no folder {path}"):
            load_causal_lm(path)


def test_a_hub_name_offline_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))  # tests run with HF_HUB_OFFLINE
    for name in ("nobody-here/no-such-model", "no-such-model"):
        with pytest.raises(
            FileNotFoundError, match=f"{name} is not a local folder, and the hub did not give it"
        ) as told:
            load_causal_lm(name)
        assert "\n" not in str(told.value)


def test_weights_are_loaded_in_float32_from_any_type(foreign, tmp_path):
    model, tok = load_causal_lm(str(foreign[0]), CONTROL)
    save_causal_lm(tmp_path / "half", model.to(torch.bfloat16), tok)
    again, _ = load_causal_lm(str(tmp_path / "half"), CONTROL)
    assert {p.dtype for p in again.parameters()} == {torch.float32}  # bfloat16 would lose a step of 1e-5


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chatty(foreign, tmp_path_factory):
    """The same model with a chat template."""
    folder = shutil.copytree(foreign[0], tmp_path_factory.mktemp("chatty") / "model")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


def test_a_chat_model_keeps_its_vocabulary(chatty, foreign):
    model, tok = load_causal_lm(str(chatty), CONTROL)
    assert tok.control == {} and len(tok) == model.get_input_embeddings().num_embeddings == foreign[1]


def adapted(folder, seed=0, base=torch.float32):
    pytest.importorskip("peft", reason="needs peft: pip install 'mrrec_mini[lora]'")
    model, tok = load_causal_lm(str(folder), CONTROL)
    return with_lora(model, 2, torch.Generator().manual_seed(seed), base), tok


@pytest.mark.slow
def test_adapters_are_trained_and_the_base_is_not(chatty):
    before = torch.random.get_rng_state()
    model, tok = adapted(chatty)
    assert torch.equal(before, torch.random.get_rng_state())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    plain, _ = load_causal_lm(str(chatty), CONTROL)
    ids = torch.tensor([tok.encode("a mug for hiking")])
    assert torch.equal(model.eval()(ids).logits, plain.eval()(ids).logits)  # B starts at 0
    same, other = adapted(chatty)[0], adapted(chatty, seed=1)[0]
    drawn = [torch.cat([p.flatten() for n, p in m.named_parameters() if "lora_A" in n]) for m in (model, same, other)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.slow
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_saved_adapters_are_the_same_policy(chatty, tmp_path, base):
    model, tok = adapted(chatty, base=base)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    save_causal_lm(tmp_path / "a", model, tok)
    assert not (tmp_path / "a" / "model.safetensors").exists()  # only the adapters, and the path of their base
    again, tok2 = load_causal_lm(str(tmp_path / "a"), CONTROL)
    assert tok2.reserved == tok.reserved
    for (name, one), (other, two) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert (name, one.dtype, one.requires_grad) == (other, two.dtype, two.requires_grad)
        assert torch.equal(one, two), name
    assert {p.dtype for p in again.parameters() if p.requires_grad} == {torch.float32}
    ids = torch.tensor([tok.encode("a mug for hiking")])
    assert torch.equal(model.eval()(ids).logits, again.eval()(ids).logits)


@pytest.mark.slow
def test_sampler_and_update_agree_with_adapters(chatty):
    from mrrec_mini.reinforce import token_logprobs
    from mrrec_mini.sampler import Sampler

    model, tok = adapted(chatty)
    model.eval()
    prompt = tok.encode("a mug for hiking")
    sampler = Sampler(model, [prompt, prompt], torch.Generator().manual_seed(0))
    ids, scores = sampler.sample((tok.inner.eos_token_id,), 6)
    for drawn, score in zip(ids, scores, strict=True):
        tokens = torch.tensor([prompt + drawn])
        mask = torch.arange(tokens.shape[1])[None] >= len(prompt)
        logprobs, _ = token_logprobs(model, tokens, mask)
        torch.testing.assert_close(logprobs[0][len(prompt) :], torch.tensor(score), atol=1e-5, rtol=0)
        logprobs.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_missing_package_is_named_with_its_extra(monkeypatch, foreign, tmp_path):
    monkeypatch.setattr("mrrec_mini.models.causal_lm.find_spec", lambda name: None)
    model, _ = load_causal_lm(str(foreign[0]), CONTROL)
    with pytest.raises(ModuleNotFoundError, match=r"need peft: pip install 'mrrec_mini\[lora\]'"):
        with_lora(model, 2, torch.Generator())
    with pytest.raises(ModuleNotFoundError, match=r"need gguf and accelerate: pip install 'mrrec_mini\[gguf\]'"):
        import_gguf(tmp_path / "x.gguf", tmp_path / "out")


# --- GGUF ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def as_if_installed(monkeypatch):
    monkeypatch.setattr("mrrec_mini.models.causal_lm.find_spec", lambda name: True)


def test_a_failed_gguf_import_leaves_nothing_behind(as_if_installed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        import_gguf(tmp_path / "none.whl", out)
    (tmp_path / "no.whl").write_text("no zip")
    (tmp_path / "no.gguf").write_text("GGUF, it says")
    for name, inside in (("empty.whl", []), ("two.whl", ["a.gguf", "b.gguf"]), ("cut.whl", ["a.gguf"])):
        with ZipFile(tmp_path / name, "w") as wheel:
            for member in inside:
                wheel.writestr(member, b"GGUF")
    before = sorted(tmp_path.iterdir())
    for name in ("no.whl", "no.gguf", "empty.whl", "two.whl", "cut.whl"):
        with pytest.raises(ValueError, match=f"{name}: cannot read a GGUF model from it") as told:
            import_gguf(tmp_path / name, out)
        assert "\n" not in str(told.value)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr("mrrec_mini.models.causal_lm.UNPACKED_LIMIT", 3)
    with pytest.raises(ValueError, match=r"a\.gguf would unpack to 4 bytes, more than 3"):
        import_gguf(tmp_path / "cut.whl", out)
    out.mkdir()
    with pytest.raises(FileExistsError, match="already exists"):
        import_gguf(tmp_path / "cut.whl", out)


@pytest.mark.slow
def test_a_gguf_model_becomes_a_folder(tmp_path):
    """A tiny Llama with a byte-level vocabulary, written with the gguf package; as a file and in a wheel."""
    gguf = pytest.importorskip("gguf", reason="needs gguf and accelerate: pip install 'mrrec_mini[gguf]'")
    pytest.importorskip("accelerate", reason="needs gguf and accelerate: pip install 'mrrec_mini[gguf]'")
    shape = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape).eval()
    write_gguf(gguf, tmp_path / "tiny.gguf", model)
    with ZipFile(tmp_path / "tiny.whl", "w") as wheel:
        wheel.write(tmp_path / "tiny.gguf", "package/tiny.gguf")
    ids = torch.tensor([[5, 6, 7]])
    for source in ("tiny.gguf", "tiny.whl"):
        import_gguf(tmp_path / source, tmp_path / f"{source}-out")
        again, tok = load_causal_lm(str(tmp_path / f"{source}-out"))
        torch.testing.assert_close(again.eval()(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)
        assert tok.chat_template == CHAT_TEMPLATE and tok.decode(tok.encode("a mug")) == "a mug"
        assert not hasattr(again.config, "quantization_config")


def write_gguf(gguf, path, model) -> None:
    """Write weights in float32 and a byte-level vocabulary with one merge; q and k in the order of llama.cpp."""
    from tokenizers.pre_tokenizers import ByteLevel

    c = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<|endoftext|>", "<s>", "</s>", *sorted(ByteLevel.alphabet()), "ab"])
    writer.add_token_types([2, 3, 3] + [1] * 257)
    writer.add_token_merges(["a b"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{x}_proj": f"attn_{'output' if x == 'o' else x}" for x in "qkvo"},
        **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    }
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        inner = name.removesuffix(".weight")
        place = names.get(inner) or "blk.0." + names[inner.removeprefix("model.layers.0.")]
        if place.endswith(("attn_q", "attn_k")):  # llama.cpp rotates neighbouring pairs, transformers the two halves
            rows, columns = weight.shape
            weight = weight.view(c.num_attention_heads, 2, -1, columns).transpose(1, 2).reshape(rows, columns)
        writer.add_tensor(f"{place}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

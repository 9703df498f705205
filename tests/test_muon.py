"""The optimizer of a tiny policy: which weights get which step, how large a step is, and that its state is complete."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from mrrec_mini.muon import make_optimizer
from small import tiny_model

WORDS = 40


def model():
    return tiny_model(WORDS)


def names_of(own, part) -> set[str]:
    held = {id(parameter) for group in part.param_groups for parameter in group["params"]}
    return {name for name, parameter in own.named_parameters() if id(parameter) in held}


def test_muon_has_the_matrices_of_the_layers_and_adamw_the_rest():
    own = model()
    adamw, muon = make_optimizer(own, 1e-3, 1e-2).parts
    names = {name for name, _ in own.named_parameters()}
    matrices = {name for name in names if name.endswith("_proj.weight")}
    assert len(matrices) == 2 * 7 and names_of(own, muon) == matrices
    assert names_of(own, adamw) == names - matrices
    assert "model.embed_tokens.weight" in names_of(own, adamw)


def test_an_output_layer_of_its_own_is_no_matrix_of_the_layers():
    shape = model().config
    untied = type(model())(deepcopy(shape).__class__(**{**shape.to_dict(), "tie_word_embeddings": False}))
    adamw, muon = make_optimizer(untied, 1e-3, 1e-2).parts
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= names_of(untied, adamw)
    assert not any("lm_head" in name for name in names_of(untied, muon))


def test_without_a_matrix_rate_all_weights_take_the_steps_of_adamw():
    ours, theirs = model(), model()
    one = make_optimizer(ours, 1e-2)
    other = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    for seed in range(3):
        for own, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            give_gradients(own, seed)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def give_gradients(own: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in own.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


class OneMatrix(nn.Module):
    """A single linear map; it has no output layer."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.linear = nn.Linear(columns, rows)  # its bias is for AdamW

    def get_output_embeddings(self):
        return None


def first_step(gradient: torch.Tensor, rate: float) -> torch.Tensor:
    """Return by how much the first step changes a matrix whose gradient is given."""
    own = OneMatrix(*gradient.shape)
    before = own.linear.weight.detach().clone()
    own.linear.weight.grad = gradient.clone()
    make_optimizer(own, 1.0, rate).step()
    return own.linear.weight.detach() - before


GENERATOR = torch.Generator().manual_seed(3)
SHARED = 10 * torch.outer(torch.ones(16), torch.ones(100))  # much larger than the rest
GRADIENT = SHARED + torch.randn(16, 100, generator=GENERATOR)


def is_the_step(change: torch.Tensor, rate: float) -> bool:
    """Whether a change is U V' of the gradient times -rate 0.2 sqrt(100), as nearly as five Newton-Schulz steps are."""
    u, _, vt = torch.linalg.svd(GRADIENT, full_matrices=False)
    inside = u.T @ change @ vt.T / (-rate * 0.2 * 10)  # (16, 16): its singular values, on the diagonal
    diagonal = inside.diagonal()
    return bool((diagonal - 1).abs().max() < 0.4 and (inside - torch.diag(diagonal)).abs().max() < 0.05)


def test_a_step_has_the_singular_vectors_of_the_gradient_and_equal_singular_values():
    assert is_the_step(first_step(GRADIENT, 0.01), 0.01)


WRONG = {
    "the gradient itself": lambda: -0.01 * GRADIENT,
    "the gradient, scaled": lambda: -0.01 * 0.2 * 10 * GRADIENT / torch.linalg.matrix_norm(GRADIENT, 2),
    "its signs, as Adam's first step": lambda: -0.01 * GRADIENT.sign(),
    "up instead of down": lambda: -first_step(GRADIENT, 0.01),
    "without the factor": lambda: first_step(GRADIENT, 0.01) / (0.2 * 10),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_steps_are_refused(name):
    assert not is_the_step(WRONG[name](), 0.01)


def test_a_share_scales_each_rate_at_the_start():
    optimizer = make_optimizer(model(), 1e-3, 1e-2)
    for share in (0.5, 0.25):  # of the rates at the start, not of the latest
        optimizer.set_share(share)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([share * 1e-3, share * 1e-2])


def test_the_state_is_complete():
    """Two steps, the second one after the state was saved and loaded into a new optimizer, equal two steps in one."""
    whole, resumed = model(), model()
    optimizer = make_optimizer(whole, 1e-3, 1e-2)
    for seed in range(2):
        give_gradients(whole, seed)
        optimizer.step()
    first = make_optimizer(resumed, 1e-3, 1e-2)
    give_gradients(resumed, 0)
    first.step()
    second = make_optimizer(resumed, 1e-3, 1e-2)
    second.load_state_dict(deepcopy(first.state_dict()))
    give_gradients(resumed, 1)
    second.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_recipe_of_a_tiny_policy_uses_it():
    from mrrec_mini.recipe import FAST, Recipe

    for recipe in (Recipe(), FAST):
        rates = recipe.train.learning_rate, recipe.train.matrix_rate
        optimizer = make_optimizer(model(), *rates)
        assert [type(part).__name__ for part in optimizer.parts] == ["AdamW", "Muon"]

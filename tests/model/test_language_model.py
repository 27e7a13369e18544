from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from textgen.config import DropoutSettings, update_settings
from textgen.model import LanguageModel, RecurrentState
from textgen.model.cells import cell_types
from textgen.model.regularization import Dropout, embedding_dropout, locked_dropout, weight_dropout

CELLS = sorted(cell_types())
MakeModel = Callable[..., LanguageModel]


def ids(batch: int, time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 23, (batch, time), generator=torch.Generator().manual_seed(seed))


def all_dropouts(seed: int, rate: float = 0.4) -> Dropout:
    names = DropoutSettings.model_fields
    return Dropout(DropoutSettings(**dict.fromkeys(names, rate)), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cell", CELLS)
def test_reading_in_pieces_equals_reading_at_once(cell: str, make_model: MakeModel) -> None:
    model, token_ids = make_model(cell), ids(3, 12)
    whole, after = model(token_ids, model.initial_state(3))
    state, pieces = model.initial_state(3), []
    for part in token_ids.split([1, 4, 7], 1):
        logits, state = model(part, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)
    for (_, left), (_, right) in zip(after.named_tensors(), state.named_tensors(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_resets_forget_what_came_before(cell: str, make_model: MakeModel) -> None:
    model, token_ids = make_model(cell), ids(2, 10)
    resets = torch.zeros(2, 10, dtype=torch.bool)
    resets[0, 4] = resets[1, 7] = resets[1, 0] = True
    started = RecurrentState.join([model(ids(2, 5, seed=9), model.initial_state(2))[1]])
    logits, _ = model(token_ids, started, resets=resets)
    fresh, _ = model(token_ids[:1, 4:], model.initial_state(1))
    torch.testing.assert_close(logits[:1, 4:], fresh, atol=1e-5, rtol=1e-5)
    kept, _ = model(token_ids[:1, :4], started.rows([0]))
    torch.testing.assert_close(logits[:1, :4], kept, atol=1e-5, rtol=1e-5)
    second, _ = model(token_ids[1:, :7], model.initial_state(1))
    torch.testing.assert_close(logits[1:, :7], second, atol=1e-5, rtol=1e-5)


def test_softmax_is_tied_to_the_embedding(make_model: MakeModel) -> None:
    model = make_model()
    hidden, _ = model.hidden(ids(1, 3), model.initial_state(1))
    logits, _ = model(ids(1, 3), model.initial_state(1))
    torch.testing.assert_close(logits, F.linear(hidden, model.embedding, model.output_bias))
    shapes = [tuple(value.shape) for name, value in model.state_dict().items() if value.shape[:1] == (23,)]
    assert sorted(shapes) == [(23,), (23, 6)]


def test_same_seed_same_weights(make_model: MakeModel) -> None:
    one, two, other = make_model(seed=1), make_model(seed=1), make_model(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embedding, other.embedding)


def test_tokens_that_are_never_predicted_keep_their_place(make_model: MakeModel) -> None:
    """Their embeddings get no push from the softmax, only what reading them teaches."""
    model = make_model()
    model.reset_parameters(0, never_predicted=(1, 3))
    logits, _ = model(torch.full((2, 5), 7), model.initial_state(2))
    assert logits[..., [1, 3]].max() < -20
    F.cross_entropy(logits.flatten(0, 1), torch.full((10,), 8)).backward()
    assert model.embedding.grad is not None
    assert model.embedding.grad[[1, 3]].abs().max() < 1e-9
    assert model.embedding.grad[8].abs().max() > 1e-4


def test_dropout_is_decided_by_its_generator_alone(make_model: MakeModel) -> None:
    model, token_ids = make_model(), ids(2, 6)
    torch.manual_seed(1)
    first, _ = model(token_ids, model.initial_state(2), dropout=all_dropouts(7))
    torch.manual_seed(2)
    second, _ = model(token_ids, model.initial_state(2), dropout=all_dropouts(7))
    other, _ = model(token_ids, model.initial_state(2), dropout=all_dropouts(8))
    plain, _ = model(token_ids, model.initial_state(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)


def test_zero_rates_change_nothing(make_model: MakeModel) -> None:
    model, token_ids = make_model(), ids(2, 6)
    with_zero, _ = model(token_ids, model.initial_state(2), dropout=all_dropouts(1, rate=0.0))
    assert torch.equal(with_zero, model(token_ids, model.initial_state(2))[0])


def test_locked_dropout_keeps_one_mask_for_all_steps() -> None:
    dropped = locked_dropout(torch.ones(4, 9, 50), 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert not torch.equal(dropped[0], dropped[1])


def test_embedding_dropout_drops_whole_rows() -> None:
    dropped = embedding_dropout(torch.ones(200, 8), 0.25, torch.Generator().manual_seed(0))
    rows = dropped.unique(dim=0)
    assert len(rows) == 2
    assert all(len(row.unique()) == 1 for row in rows)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropouts_keep_the_mean(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for dropped in (
        weight_dropout(torch.ones(400, 400), rate, generator),
        embedding_dropout(torch.ones(160_000, 1), rate, generator),
        locked_dropout(torch.ones(400, 1, 400), rate, generator),
    ):
        assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("halved", [False, True])
def test_every_parameter_learns(cell: str, halved: bool, make_model: MakeModel) -> None:
    model, token_ids = make_model(cell), ids(4, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=halved):
        logits, _ = model(token_ids, model.initial_state(4), dropout=all_dropouts(1, 0.1))
    logits = logits.float()
    F.cross_entropy(logits.flatten(0, 1), token_ids.flatten()).backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


def member_of(ensemble: LanguageModel, member: int) -> LanguageModel:
    """One member as a model of its own."""
    settings = ensemble.settings
    alone = LanguageModel(update_settings(settings, members=1))
    width = settings.embedding_size
    own = slice(member * width, (member + 1) * width)
    with torch.no_grad():
        alone.embedding.copy_(ensemble.embedding[:, own])
        alone.output_bias.copy_(ensemble.output_bias)
        alone.projection.weight.copy_(ensemble.projection.weight[own])
        alone.projection.bias.copy_(ensemble.projection.bias[own])
    for depth, layer in enumerate(alone.layers):
        layer.load_state_dict(ensemble.layers[depth * settings.members + member].state_dict())
    return alone


@pytest.mark.parametrize(("num_layers", "members"), [(1, 2), (2, 3)])
@pytest.mark.parametrize("cell", CELLS)
def test_an_ensembles_logits_are_the_mean_of_its_members(
    cell: str, num_layers: int, members: int, make_model: MakeModel
) -> None:
    ensemble, token_ids = make_model(cell, num_layers=num_layers, members=members), ids(3, 8)
    with torch.no_grad():
        ensemble.projection.bias.normal_()
        ensemble.output_bias.normal_()
    alone = [member_of(ensemble, member) for member in range(members)]
    assert ensemble.num_parameters == sum(model.num_parameters - 23 for model in alone) + 23
    resets = torch.zeros(3, 8, dtype=torch.bool)
    resets[1, 4] = True
    expected = torch.stack([model(token_ids, model.initial_state(3), resets=resets)[0] for model in alone])
    assert (expected[0] - expected[1]).abs().max() > 0.1
    logits, _ = ensemble(token_ids, ensemble.initial_state(3), resets=resets)
    torch.testing.assert_close(logits, expected.mean(0), atol=1e-5, rtol=1e-5)
    apart, _ = ensemble(token_ids, ensemble.initial_state(3), resets=resets, apart=True)
    torch.testing.assert_close(apart, expected, atol=1e-5, rtol=1e-5)

    state, steps = ensemble.initial_state(3), []
    for column in token_ids.unbind(1):
        hidden, state = ensemble.step(column, state)
        steps.append(F.linear(hidden, ensemble.embedding, ensemble.output_bias))
    whole, after = ensemble(token_ids, ensemble.initial_state(3))
    torch.testing.assert_close(torch.stack(steps, 1), whole, atol=1e-5, rtol=1e-5)
    for (_, stepped), (_, read) in zip(state.named_tensors(), after.named_tensors(), strict=True):
        torch.testing.assert_close(stepped, read, atol=1e-5, rtol=1e-5)


def test_members_begin_differently_and_drop_differently(make_model: MakeModel) -> None:
    ensemble = make_model(members=2)
    apart, _ = ensemble(ids(2, 5), ensemble.initial_state(2), apart=True)
    assert not torch.allclose(apart[0], apart[1], atol=1e-3)
    with torch.no_grad():
        ensemble.embedding[:, 6:] = ensemble.embedding[:, :6]
        ensemble.projection.weight[6:] = ensemble.projection.weight[:6]
        for depth in range(2):
            ensemble.layers[2 * depth + 1].load_state_dict(ensemble.layers[2 * depth].state_dict())
    apart, _ = ensemble(ids(2, 5), ensemble.initial_state(2), apart=True)
    torch.testing.assert_close(apart[0], apart[1])
    dropped, _ = ensemble(ids(2, 5), ensemble.initial_state(2), dropout=all_dropouts(1), apart=True)
    assert not torch.allclose(dropped[0], dropped[1], atol=1e-3)

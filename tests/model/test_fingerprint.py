from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from textgen.config import CELLS
from textgen.model import LanguageModel
from textgen.model.fingerprint import fingerprint

MakeModel = Callable[..., LanguageModel]


def test_it_is_a_sha256_of_the_model_and_of_nothing_else(make_model: MakeModel) -> None:
    model = make_model()
    found = fingerprint(model)
    assert len(bytes.fromhex(found)) == 32
    assert fingerprint(model) == found
    assert fingerprint(make_model()) == found
    assert fingerprint(copy.deepcopy(model).requires_grad_(False)) == found
    with torch.inference_mode():
        assert fingerprint(model) == found


@pytest.mark.parametrize("cell", CELLS)
def test_every_number_counts(make_model: MakeModel, cell: str) -> None:
    model = make_model(cell)
    seen = {fingerprint(model)}
    parameters = list(model.parameters())
    for parameter in parameters:
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-3
        seen.add(fingerprint(model))
    assert len(seen) == 1 + len(parameters)


def test_shapes_and_cells_count(make_model: MakeModel) -> None:
    shapes: list[dict[str, int]] = [{}, {"num_layers": 1}, {"hidden_size": 8}, {"seed": 1}, {"members": 2}]
    models = [make_model("gru"), *(make_model(**shape) for shape in shapes)]
    assert len({fingerprint(model) for model in models}) == len(models)


def test_single_networks_are_called_what_they_were_before_there_were_ensembles(make_model: MakeModel) -> None:
    model = make_model("rnn", num_layers=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    assert fingerprint(model) == "3636faea8fce73d69cb6b62f53eef51ce8ea9085985d647188968e485948b86a"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_halves_are_taken_for_the_numbers_that_they_are(make_model: MakeModel, kind: torch.dtype) -> None:
    model = make_model().to(kind)
    found = fingerprint(model)
    assert found == fingerprint(copy.deepcopy(model).float())
    assert found != fingerprint(make_model())


def test_memory_order_does_not_count(make_model: MakeModel) -> None:
    model = make_model()
    expected = fingerprint(model)
    with torch.no_grad():
        model.embedding.set_(model.embedding.t().contiguous().t())  # type: ignore[call-overload]
    assert not model.embedding.is_contiguous()
    assert fingerprint(model) == expected

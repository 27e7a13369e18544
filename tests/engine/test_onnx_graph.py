"""The graphs by themselves: what 8 bits hold, and that nothing leaves them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from tests.engine.helpers import VOCAB, open_onnx, tiny_model
from textgen.config import CELLS
from textgen.engine.onnx_graph import GraphBuilder, state_names
from textgen.engine.onnx_products import Fp32Products, Int8Products, Products
from textgen.errors import BackendUnavailable
from textgen.model import LanguageModel
from textgen.model.cells import LSTM

LARGEST_INT16 = 2**15 - 1


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("cell", CELLS)
def test_two_products_always_fit_in_sixteen_bits(cell: str) -> None:
    """Else processors without VNNI, which add them there, would cut them off where others do not."""
    builder = GraphBuilder(tiny_model(cell))
    for graph in (builder.step(), builder.prefill(), builder.head()):
        values = constants(graph)
        weights = [value for name, value in values.items() if name.endswith("_weight")]
        assert weights
        # The largest level that anything quantised can have: that of a share of 1.
        top = round(1 / float(values["share"])) + int(values["zero_point"])
        for weight in weights:
            assert weight.dtype == np.int8
            assert np.abs(weight.astype(int)).max() > 64  # the levels are made use of
            assert 2 * top * np.abs(weight.astype(int)).max() <= LARGEST_INT16


def head(model: LanguageModel, hidden: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(GraphBuilder(model).head().SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"hidden": hidden.astype(np.float32)})
    return logits


@pytest.mark.parametrize("width", [1, 2, 3, 31, 64, 129])
def test_at_their_extremes_weights_and_activations_give_exact_sums(width: int) -> None:
    """Everything at ±1 is exact in 8 bits, and every sum as large as it can be: one cut off would be seen."""
    model = tiny_model("rnn", hidden_size=width, embedding_size=width, num_layers=1)
    generator = np.random.default_rng(width)
    signs = {"positive": np.ones((width, width)), "mixed": generator.choice([-1.0, 1.0], (width, width))}
    rows = np.stack([np.ones(width), -np.ones(width), generator.choice([-1.0, 1.0], width)])
    for weight in signs.values():
        with torch.no_grad():
            model.projection.weight.copy_(torch.from_numpy(weight))
            model.projection.bias.zero_()
            model.embedding.fill_(1.0)
            model.embedding[1::2] = -1.0
            model.output_bias.zero_()
        projected = rows @ weight.T
        # The projection is rounded once more, to shares of its largest magnitude.
        largest = np.maximum(np.abs(projected).max(1, keepdims=True), 1e-30)
        rounded = np.rint(projected / largest * 90) / 90 * largest
        expected = rounded @ model.embedding.detach().double().numpy().T
        np.testing.assert_allclose(head(model, rows), expected, rtol=2e-6, atol=1e-4)


def test_rows_have_scales_of_their_own_and_zeros_are_zeros() -> None:
    """A faint row beside a loud one is as exact as alone; one of nothing gives the biases alone."""
    model = tiny_model("rnn", num_layers=1)
    generator = np.random.default_rng(0)
    faint, loud = generator.normal(size=(2, 17))
    faint *= 1e-6
    with torch.no_grad():
        model.projection.bias.zero_()
    found = head(model, np.stack([faint, loud * 1e3, np.zeros(17)]))
    np.testing.assert_array_equal(found[0], head(model, faint[None])[0])
    np.testing.assert_array_equal(found[2], model.output_bias.detach().numpy())
    with torch.no_grad():
        expected = (model.projection(torch.from_numpy(faint[None]).float()) @ model.embedding.T)[0].numpy()
    difference = found[0] - model.output_bias.detach().numpy() - expected
    # Seen at the size of the biases that it is added to.
    assert np.abs(difference).max() < 1e-6


def test_channels_have_scales_of_their_own() -> None:
    """A row of tiny weights beside one of huge ones is not rounded away."""
    model = tiny_model("rnn", num_layers=1)
    with torch.no_grad():
        model.embedding[3] *= 1e-4
        model.embedding[4] *= 1e4
        model.output_bias.zero_()
    hidden = np.random.default_rng(1).normal(size=(1, 17)).astype(np.float32)
    with torch.no_grad():
        expected = (model.projection(torch.from_numpy(hidden)) @ model.embedding.T)[0].numpy()
    found = head(model, hidden)[0]
    scale = np.abs(model.embedding.detach().numpy()).max(1) * np.abs(expected).max() / 1e4
    assert (np.abs(found - expected) / scale).max() < 0.1


def test_the_table_holds_what_the_first_layer_makes_of_each_token() -> None:
    model = tiny_model("lstm")
    table = GraphBuilder(model).input_gates()
    layer = model.layers[0]
    assert isinstance(layer, LSTM)
    weights = layer.gate_weights()
    with torch.no_grad():
        gates = model.embedding @ weights.input.T + weights.input_bias + weights.hidden_bias
    i, f, g, o = gates.numpy().reshape(VOCAB, 4, 17).transpose(1, 0, 2)
    np.testing.assert_allclose(table, np.concatenate([i, f, o, g], 1), atol=1e-5)


def test_building_leaves_the_model_alone() -> None:
    model = tiny_model("gru")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    open_onnx(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.requires_grad


def test_a_cell_without_a_graph_is_refused_by_name() -> None:
    class Peephole(LSTM):
        pass

    model = tiny_model("lstm")
    model.layers[1].__class__ = Peephole
    with pytest.raises(BackendUnavailable, match="Peephole"):
        GraphBuilder(model)


def open_whole(model: LanguageModel, products: Products) -> ort.InferenceSession:
    graph = GraphBuilder(model, products).language_model()
    onnx.checker.check_model(graph, full_check=True)
    # None but ONNX's own operators, in the bodies of loops neither.
    assert [opset.domain for opset in graph.opset_import] == [""]
    return ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def run_whole(
    session: ort.InferenceSession, token_ids: np.ndarray, state: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    logits, *after = session.run(None, {"token_ids": token_ids, **state})
    assert [value.name for value in session.get_outputs()[1:]] == [f"next_{name}" for name in state]
    return logits, dict(zip(state, after, strict=True))


def whole_state(model: LanguageModel, batch_size: int) -> dict[str, np.ndarray]:
    names = [name for names in state_names(model) for name in names]
    return {name: np.zeros((batch_size, model.settings.hidden_size), np.float32) for name in names}


@pytest.mark.parametrize(("num_layers", "members"), [(1, 1), (3, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("cell", CELLS)
def test_the_whole_model_is_the_reference_all_at_once_and_step_by_step(
    cell: str, num_layers: int, members: int
) -> None:
    model = tiny_model(cell, num_layers=num_layers, members=members)
    session = open_whole(model, Fp32Products())
    token_ids = np.random.default_rng(0).integers(0, VOCAB, (2, 30))
    with torch.inference_mode():
        expected, after = model(torch.from_numpy(token_ids), model.initial_state(2))
    at_once, end = run_whole(session, token_ids, whole_state(model, 2))
    np.testing.assert_allclose(at_once, expected.numpy(), rtol=1e-4, atol=1e-4)
    for found, (_, tensor) in zip(end.values(), after.named_tensors(), strict=True):
        np.testing.assert_allclose(found, tensor.numpy(), rtol=1e-4, atol=1e-4)
    state = whole_state(model, 2)
    for time in range(token_ids.shape[1]):
        logits, state = run_whole(session, token_ids[:, time : time + 1], state)
        np.testing.assert_allclose(logits[:, 0], at_once[:, time], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_the_whole_model_in_8_bits_gives_a_text_the_same_values_in_every_company(cell: str, members: int) -> None:
    """And nearly those of the engine's, which does not round the first layer's input."""
    model = tiny_model(cell, hidden_size=64, embedding_size=32, members=members)
    session = open_whole(model, Int8Products())
    token_ids = np.random.default_rng(0).integers(0, VOCAB, (3, 20))
    together, _ = run_whole(session, token_ids, whole_state(model, 3))
    state = whole_state(model, 1)
    for time in range(20):
        logits, state = run_whole(session, token_ids[1:2, time : time + 1], state)
        np.testing.assert_array_equal(logits[0, 0], together[1, time])
    engine = open_onnx(model).open_pool(1).read_all(0, token_ids[1])
    assert np.abs(together[1] - engine).mean() < 0.05 * engine.std()

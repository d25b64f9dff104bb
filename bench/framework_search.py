"""A framework's own hybrid search over pgvector, in the environment where it is installed; `bench.frameworks` calls it.

Reads a set from a file that numpy wrote, stores its passages with the vectors that are given, and asks the questions by
way of the framework's embedding interface. Prints the versions, and the documents found for each question, as JSON.
"""

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

_DEPTH = 200

Search = Callable[[str], list[str]]
"""The documents of the passages that were found for a question, best first, with repetitions."""


def _with_llama_index(given: Mapping[str, Any], url: str) -> Search:
    embeddings: Any = importlib.import_module("llama_index.core.embeddings")
    core: Any = importlib.import_module("llama_index.core")
    schema: Any = importlib.import_module("llama_index.core.schema")
    stores: Any = importlib.import_module("llama_index.vector_stores.postgres")
    vectors = _of_questions(given)

    class Cached(embeddings.BaseEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return vectors[query]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return vectors[query]

        def _get_text_embedding(self, text: str) -> list[float]:
            raise LookupError(f"Passages come with their vectors: {text:.80}")

    store = stores.PGVectorStore.from_params(
        connection_string=url.replace("postgresql:", "postgresql+psycopg2:"),
        async_connection_string=url.replace("postgresql:", "postgresql+asyncpg:"),
        table_name="passages",
        embed_dim=len(given["vectors"][0]),
        hybrid_search=True,
        text_search_config=str(given["language"]),
    )
    store.add(
        [
            schema.TextNode(
                id_=str(place), text=text, metadata={"document": document}, embedding=vector.tolist()
            )
            for place, (text, document, vector) in enumerate(_passages(given))
        ]
    )
    retriever = core.VectorStoreIndex.from_vector_store(store, embed_model=Cached()).as_retriever(
        vector_store_query_mode="hybrid", similarity_top_k=_DEPTH, sparse_top_k=_DEPTH
    )
    return lambda question: [found.node.metadata["document"] for found in retriever.retrieve(question)]


def _with_langchain(given: Mapping[str, Any], url: str) -> Search:
    embeddings: Any = importlib.import_module("langchain_core.embeddings")
    postgres: Any = importlib.import_module("langchain_postgres")
    hybrid: Any = importlib.import_module("langchain_postgres.v2.hybrid_search_config")
    vectors = _of_questions(given)
    of_passages = {text: vector.tolist() for text, _, vector in _passages(given)}

    class Cached(embeddings.Embeddings):
        def embed_query(self, text: str) -> list[float]:
            return vectors[text]

        def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
            return [of_passages[text] for text in texts]

    config = hybrid.HybridSearchConfig(
        tsv_lang=f"pg_catalog.{given['language']}",
        fusion_function_parameters={"fetch_top_k": _DEPTH},
        primary_top_k=_DEPTH,
        secondary_top_k=_DEPTH,
    )
    engine = postgres.PGEngine.from_connection_string(url=url.replace("postgresql:", "postgresql+asyncpg:"))
    engine.init_vectorstore_table(
        table_name="passages", vector_size=len(given["vectors"][0]), hybrid_search_config=config
    )
    store = postgres.PGVectorStore.create_sync(
        engine=engine, table_name="passages", embedding_service=Cached(), hybrid_search_config=config
    )
    texts = [text for text, _, _ in _passages(given)]
    documents = [{"document": document} for _, document, _ in _passages(given)]
    for start in range(0, len(texts), 500):
        store.add_texts(texts[start : start + 500], metadatas=documents[start : start + 500])
    return lambda question: [
        found.metadata["document"] for found in store.similarity_search(question, k=_DEPTH)
    ]


_FRAMEWORKS: Mapping[str, tuple[Callable[[Mapping[str, Any], str], Search], tuple[str, ...]]] = {
    "llama-index": (_with_llama_index, ("llama-index-core", "llama-index-vector-stores-postgres")),
    "langchain": (_with_langchain, ("langchain-core", "langchain-postgres")),
}


def _passages(given: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    texts, documents = given["texts"].tolist(), given["documents"].tolist()
    return list(zip(texts, documents, given["vectors"], strict=True))


def _of_questions(given: Mapping[str, Any]) -> dict[str, list[float]]:
    return dict(zip(given["questions"].tolist(), given["question_vectors"].tolist(), strict=True))


def main(framework: str, path: str, url: str) -> None:
    with Path(path).open("rb") as file:
        given = dict(np.load(file))
    make, packages = _FRAMEWORKS[framework]
    search = make(given, url)
    found = {
        identifier: list(dict.fromkeys(search(question)))
        for identifier, question in zip(given["ids"].tolist(), given["questions"].tolist(), strict=True)
    }
    json.dump({"versions": {name: version(name) for name in packages}, "found": found}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])

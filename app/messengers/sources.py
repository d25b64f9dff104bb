"""What an answer is from, in lines for people."""

from typing import Any


def place(source: dict[str, Any]) -> str:
    about = source["metadata"]
    page = f"page {about['page_label']}" if "page_label" in about else None
    return ", ".join(dict.fromkeys(part for part in (source["name"], page, about.get("heading")) if part))


def cited(answer: dict[str, Any]) -> list[str]:
    """The `sources` of an answer that its `citations` name, a line each."""
    named = {citation["source_id"] for citation in answer.get("citations", ())}
    return [
        " ".join(filter(None, (f"[{source['id']}]", place(source), source.get("url"))))
        for source in answer.get("sources", ())
        if source["id"] in named
    ]

"""Freshet: answers from your own documents, streamed, with their sources."""

__version__ = "0.1.0"

"""What can be typed, and what it says of itself; what it does is in the modules beside.

They are imported when they are wanted: reading the help should not take the second that the whole application takes.
"""

import sys
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import click

from app import __version__
from app.cli.connector_commands import connect, connectors, sync
from app.cli.failures import expected_in
from app.cli.import_commands import import_
from app.errors import FreshetError

_EXISTING = click.Path(exists=True, path_type=Path)
_DAY = click.DateTime(formats=["%Y-%m-%d"])
_WRITTEN = click.Path(dir_okay=False, writable=True, path_type=Path)


class _Commands(click.Group):
    """What is expected to go wrong is told in one line, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (FreshetError, BaseExceptionGroup) as error:
            expected = expected_in(error)
            if expected is None:
                raise
            raise click.ClickException(expected.message) from error


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="Freshet %(version)s")
def main() -> None:
    """Answers from your own documents, streamed, every claim tied to a source.

    Settings are read from the environment and from .env in the current directory; docs/operations.md lists them.
    Without DATABASE_URL, all commands share an embedded PostgreSQL in FRESHET_DATA_DIR (.data in the current
    directory), whether a server is running on it or not.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has no ✓ gets a question mark.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


@main.command()
def run() -> None:
    """Start from nothing: database, admin, first assistants, server.

    The assistants answer from Freshet's own documentation. At a later start only what has changed is done again.
    """
    from app.cli import serve

    serve.run()


@main.command()
@click.option("--host", help="Address to listen at.  [default: HOST, or 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 takes a free one.  [default: PORT, or 8000]")
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: WORKERS, or 1]")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Start the server, and nothing but the server.

    With DATABASE_URL the schema must be this version's: run `freshet migrate` before.
    """
    from app.cli import serve as module

    module.serve(host=host, port=port, workers=workers)


@main.command()
@click.option(
    "--concurrency", type=click.IntRange(1), help="Documents at once.  [default: INGEST_CONCURRENCY, or 4]"
)
def worker(concurrency: int | None) -> None:
    """Ingest documents, beside the server or without it.

    Any number may run, on any machine that reaches the database. With INGEST_IN_SERVER=false the server leaves all
    documents to them. Stopped by SIGTERM or Ctrl-C, a worker gives back what it is at.
    """
    from app.cli import worker as module

    module.work(concurrency=concurrency)


@main.command()
@click.option(
    "--check", is_flag=True, help="Change nothing; exit code 1 if the schema is not this version's."
)
@click.option("--to", "target", type=click.Choice(["head", "base"]), default="head", show_default=True)
@click.option("--yes-delete-everything", "confirmed", is_flag=True, help="What `--to base` asks for.")
def migrate(check: bool, target: str, confirmed: bool) -> None:
    """Bring the database's schema to this version's.

    `--to base` removes all tables of Freshet with all that is in them.
    """
    if target == "base" and not confirmed:
        raise click.UsageError(
            "--to base deletes all documents, users and conversations. Add --yes-delete-everything."
        )
    from app.cli import database

    database.migrate(check=check, target=target)


@main.command()
@click.argument("question")
@click.option("--assistant", default="freshet-docs", show_default=True, help="Slug or id of who is asked.")
@click.option("--session", "session_id", help="Id of a session to go on with; each answer tells its own.")
@click.option("--as", "email", metavar="EMAIL", help="The user to ask as, for assistants that want one.")
def ask(question: str, assistant: str, session_id: str | None, email: str | None) -> None:
    """Ask an assistant; the answer is streamed, its sources follow.

    The answer goes to standard output, all else to standard error.
    """
    from app.cli import ask as module

    module.ask(question, assistant=assistant, session_id=session_id, email=email)


@main.command()
@click.argument("assistant", default="freshet-docs")
@click.option("--as", "email", metavar="EMAIL", help="The user to ask as, for assistants that want one.")
def chat(assistant: str, email: str | None) -> None:
    """Converse with an assistant, by its slug or id.  [default: freshet-docs]

    A line is a question. /reset begins a new conversation, /quit ends it, Ctrl-C stops an answer that is being made.
    """
    from app.cli import chat as module

    module.chat(assistant, email=email)


@main.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=_EXISTING)
@click.option(
    "--collection", default="default", show_default=True, help="Made if there is none of this name."
)
@click.option("--password", "ask_password", is_flag=True, help="Ask for the password that opens the PDFs.")
def ingest(paths: tuple[Path, ...], collection: str, ask_password: bool) -> None:
    """Add files, and folders with all below them, to a collection.

    PDF, Word (.docx), PowerPoint (.pptx), Excel (.xlsx), CSV, OpenDocument text (.odt), RTF, EPUB, HTML, Markdown,
    JSON, plain text, email (.eml, .msg) and ZIP archives of these. Other files in folders are passed over; a file that
    is named is tried. What the collection has already is not added again. Exit code 1 if any file was refused.
    """
    from app.cli import ingest as module

    password = click.prompt("Password", hide_input=True, err=True) if ask_password else None
    module.ingest(paths, collection=collection, password=password)


for command in (connect, connectors, sync, import_):
    main.add_command(command)


@main.group()
def user() -> None:
    """Add users, list them, set their passwords."""


_asked = click.option(
    "--password", "ask_password", is_flag=True, help="Ask for it (twice) instead of making one."
)


@user.command()
@click.argument("email")
@click.option("--admin", is_flag=True, help="May manage assistants, documents and users.")
@_asked
def add(email: str, admin: bool, ask_password: bool) -> None:
    """Add a user, with a password that is shown once."""
    from app.cli import accounts

    accounts.add(email, admin=admin, password=_asked_password() if ask_password else None)


@user.command(name="list")
def list_users() -> None:
    """List all users."""
    from app.cli import accounts

    accounts.list_users()


@user.command()
@click.argument("email")
@_asked
def password(email: str, ask_password: bool) -> None:
    """Set a new password, shown once; the user's logins end."""
    from app.cli import accounts

    accounts.set_password(email, password=_asked_password() if ask_password else None)


def _asked_password() -> str:
    return click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)


@main.command()
@click.argument("email")
def token(email: str) -> None:
    """Print an access token of a user, for scripts."""
    from app.cli import accounts

    accounts.token(email)


@main.command()
@click.option(
    "--from", "since", type=_DAY, metavar="DAY", help="Such as 2026-11-26.  [default: 30 days to the last]"
)
@click.option("--to", "until", type=_DAY, metavar="DAY", help="The last day.  [default: today]")
@click.option(
    "--by",
    type=click.Choice(["day", "assistant", "user", "session", "model"]),
    default="day",
    show_default=True,
)
@click.option("--assistant", metavar="NAME", help="Slug or id of one that alone is meant.")
@click.option("--as", "email", metavar="EMAIL", help="The user who alone is meant.")
def usage(
    since: datetime | None, until: datetime | None, by: Any, assistant: str | None, email: str | None
) -> None:
    """Tell what answers have taken: tokens read, written and embedded, and what they cost.

    Days are those of UTC. The cost is that of the prices in MODEL_PRICES when the answer ended.
    """
    from app.cli import usage as module

    module.usage(
        since.date() if since is not None else None,
        until.date() if until is not None else None,
        by=by,
        assistant=assistant,
        email=email,
    )


@main.command()
def doctor() -> None:
    """Check settings, database, models and disk, and say what to do.

    Exit code 1 when something is wrong.
    """
    from app.cli import doctor as module

    module.doctor()


@main.command(name="eval")
@click.argument("data", type=_EXISTING)
@click.option("--collection", metavar="NAME", help="Whom the questions of a table are asked of.")
@click.option("--setting", "first", metavar="KEY=VALUE,…", help="How to search.  [default: each mode]")
@click.option("--against", "second", metavar="KEY=VALUE,…", help="Compare with this change to the setting.")
@click.option("--recall-at", type=click.IntRange(1), default=100, show_default=True, help="k of Recall@k.")
@click.option("--answers", is_flag=True, help="Let the model answer each question from what was found.")
@click.option("--report", type=_WRITTEN, help="Write a page to read in a browser.")
@click.option("--results", type=_WRITTEN, help="Write each question's figures: .csv, or JSON else.")
def evaluate(
    data: Path,
    collection: str | None,
    first: str | None,
    second: str | None,
    recall_at: int,
    answers: bool,
    report: Path | None,
    results: Path | None,
) -> None:
    """Measure retrieval on questions whose answers are known: nDCG@10, Recall@k, MRR@10, hits.

    DATA is a labelled set, a folder in BEIR's layout: corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv.
    It is searched in a database of its own on the same server, which is dropped afterwards; embeddings are kept in
    FRESHET_DATA_DIR/embeddings. Or DATA is a table (CSV) with the columns question, and document (file name or id,
    several separated by ;) or answer (a text that the right passage contains), to be asked of a --collection.

    A setting is mode=words, dense or both; depth=N, how many of each half are fused; top_k=N; similarity_cutoff=X;
    rerank=true, by the reranker of the settings; fold=true, what says the same once; embedding_model=NAME (labelled
    sets alone).
    """
    from app.cli import evaluate as module

    module.evaluate(data, collection, module.Wanted((first, second), recall_at, answers, report, results))


@main.command()
def reembed() -> None:
    """Embed all documents anew, after a change of EMBEDDING_MODEL.

    Can be broken off and taken up again. A server that runs meanwhile goes on with the old embedder, and has to be
    started again afterwards.
    """
    from app.cli import reembed as module

    module.reembed()


@main.command()
@click.argument("file", default="-", type=click.File("rb"))
@click.option("--after", type=click.IntRange(0), default=0, help="The stream was resumed behind this seq.")
@click.option("--prefix", is_flag=True, help="The stream was cut off: it need not have an end.")
def conform(file: BinaryIO, after: int, prefix: bool) -> None:
    """Check a recorded stream against the protocol.

    FILE holds the body of an answer of POST /api/v1/chat/stream, NDJSON or server-sent events; left out, it is read
    from standard input. Each problem is a line; exit code 1 if there is any.
    """
    from app.cli import conform as module

    module.conform(file, after=after, prefix=prefix)

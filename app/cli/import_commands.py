"""What can be typed about imports; what it does is in `app.cli.openai_import`, imported when it is wanted."""

from pathlib import Path

import click


@click.group(name="import")
def import_() -> None:
    """Bring in what was kept elsewhere."""


@import_.command(name="openai")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--user", "email", metavar="EMAIL", help="Whose the conversations become.  [default: nobody's]")
@click.option("--dry-run", is_flag=True, help="Change nothing, and tell what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
def openai(directory: Path, email: str | None, dry_run: bool, as_json: bool) -> None:
    """Import what was saved of OpenAI's Assistants API.

    DIR holds what its calls returned, as JSON: assistants, threads, messages, files (with their contents),
    vector_stores and vector_store_files, each a file or a folder. What is there already stays as it is. Documents are
    ingested by the server or by `freshet worker`. Exit code 1 if anything was refused.
    """
    from app.cli import openai_import as module

    module.import_export(directory, email=email, dry_run=dry_run, as_json=as_json)

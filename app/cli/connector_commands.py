"""What can be typed about connectors; what it does is in `app.cli.connect`, imported when it is wanted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def connect() -> None:
    """Keep a collection in step with a folder, a site, a bucket.

    The connector is made and synchronised for the first time; a running server, or `freshet sync`, goes on by its
    schedule. Secrets are read from the environment and kept encrypted.
    """


_CONNECTOR_OPTIONS = (
    click.option("--name", help="Of the connector.  [default: from the place]"),
    click.option("--collection", help="Made if there is none of this name.  [default: the connector's name]"),
    click.option(
        "--every", "schedule", metavar="SCHEDULE", help="30m, 6h, 1d, or five fields of cron in UTC."
    ),
    click.option("--include", multiple=True, metavar="PATTERN", help="*.pdf, reports/**; may be repeated."),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="What is left out; may be repeated."),
    click.option("--no-sync", is_flag=True, help="Make it, and leave it at that."),
)


def _of_connector(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_CONNECTOR_OPTIONS):
        command = option(command)
    return command


@connect.command()
@click.argument("path", type=_FOLDER)
@_of_connector
def folder(path: Path, **options: Any) -> None:
    """A folder of this machine, with all below it.

    Links are not followed. It must be there for whichever process does the syncs.
    """
    from app.ingest.connectors.kinds import FolderPlace

    place = {"kind": "folder", "path": str(path.resolve())}
    _connect(FolderPlace, place, options, {})


@connect.command()
@click.argument("url")
@click.option("--mode", type=click.Choice(["auto", "sitemap", "links"]), default="auto", show_default=True)
@click.option(
    "--depth", type=click.IntRange(0, 50), default=5, show_default=True, help="Links from the start."
)
@click.option("--max-pages", type=click.IntRange(1, 50_000), default=1_000, show_default=True)
@click.option(
    "--delay", "delay_s", type=click.FloatRange(0, 60), default=0.5, show_default=True, help="Seconds."
)
@click.option(
    "--authorization", envvar="CONNECT_AUTHORIZATION", help="Header; better set $CONNECT_AUTHORIZATION."
)
@_of_connector
def web(url: str, authorization: str | None, **options: Any) -> None:
    """The pages of a site below URL, by its sitemaps or its links.

    robots.txt is obeyed. Documents that pages link to are taken as well.
    """
    from app.ingest.connectors.kinds import WebPlace

    own = {name: options.pop(name) for name in ("mode", "depth", "max_pages", "delay_s")}
    secrets = {"authorization": authorization} if authorization else {}
    _connect(WebPlace, {"kind": "web", "url": url, **own}, options, secrets)


@connect.command()
@click.argument("bucket")
@click.option("--prefix", default="", help="What keys begin with.")
@click.option("--endpoint", help="Address of what speaks as S3 does.  [default: Amazon's]")
@click.option("--region", default="us-east-1", show_default=True)
@click.option("--access-key-id", envvar="CONNECT_ACCESS_KEY_ID", help="Better set $CONNECT_ACCESS_KEY_ID.")
@click.option(
    "--secret-access-key", envvar="CONNECT_SECRET_ACCESS_KEY", help="Better set $CONNECT_SECRET_ACCESS_KEY."
)
@_of_connector
def s3(bucket: str, access_key_id: str | None, secret_access_key: str | None, **options: Any) -> None:
    """A bucket of S3, or of what speaks as it does.

    Without keys it is read as everybody may.
    """
    from app.ingest.connectors.kinds import S3Place

    own = {name: options.pop(name) for name in ("prefix", "endpoint", "region")}
    given = {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
    secrets = {name: value for name, value in given.items() if value}
    _connect(S3Place, {"kind": "s3", "bucket": bucket, **own}, options, secrets)


def _connect(kind: Any, place: dict[str, Any], options: dict[str, Any], secrets: dict[str, str]) -> None:
    from pydantic import ValidationError

    from app.cli import connect as module

    patterns = {name: options.pop(name) for name in ("include", "exclude")}
    try:
        checked = kind(**place, **patterns)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise click.UsageError(f"{problem['loc'][0]}: {problem['msg']}") from error
    sync = not options.pop("no_sync")
    module.connect(checked, module.Wanted(**options, secrets=secrets, sync=sync))


@click.command()
def connectors() -> None:
    """List the connectors, and how they last went."""
    from app.cli import connect as module

    module.list_connectors()


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--once", is_flag=True, help="End afterwards, whatever the schedules say.")
def sync(names: tuple[str, ...], once: bool) -> None:
    """Synchronise connectors now, all or those that are named.

    Those with a schedule are gone on with until Ctrl-C; a running server does so as well. Exit code 1 if any did not
    get through, or left items out.
    """
    from app.cli import connect as module

    module.sync(names, once=once)

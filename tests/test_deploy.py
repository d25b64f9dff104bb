"""What a stranger builds and starts: the lock files, the image, the composition of services. No Docker engine is needed."""

import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from app.settings import ServerSettings, groups

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-clients.lock")


def _pins(lock: str) -> dict[str, str]:
    """By requirement and marker, the whole entry with its hashes."""
    entries = re.split(r"^(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)
    return {entry.split(" \\")[0]: entry for entry in entries if entry.strip()}


@pytest.fixture
def compose() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


@pytest.fixture
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_package_with_hashes_and_names_no_address(lock: str) -> None:
    pins = _pins(lock)

    assert len(pins) > 50
    assert all("==" in name and "--hash=sha256:" in entry for name, entry in pins.items())
    assert "://" not in (ROOT / lock).read_text()


def test_what_is_never_installed_is_in_no_lock() -> None:
    names = {pin.split("==")[0] for lock in LOCKS for pin in _pins(lock)}

    assert not names & {"torch", "sentence-transformers", "scipy", "transformers", "boto3"}


def test_the_developers_lock_holds_all_that_runs_in_the_same_versions() -> None:
    developers = {pin.split(" ")[0] for pin in _pins("requirements-dev.lock")}

    assert {pin.split(" ")[0] for pin in _pins("requirements.lock")} <= developers


def test_every_dependency_that_is_declared_is_locked() -> None:
    declared = re.search(
        r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    assert declared is not None
    names = set(re.findall(r'"([A-Za-z0-9-]+)', declared[1]))

    assert names <= {pin.split("==")[0] for pin in _pins("requirements.lock")}


def test_the_image_runs_as_a_user_of_its_own_with_a_name(dockerfile: str) -> None:
    users = re.findall(r"^USER (.+)$", dockerfile, re.MULTILINE)

    assert users == ["freshet"]
    assert re.search(r"useradd .* freshet\b", dockerfile)


def test_the_image_installs_the_lock_by_its_hashes(dockerfile: str) -> None:
    assert "pip install --no-deps --require-hashes -r requirements.lock" in dockerfile


def test_the_image_asks_for_its_health_listens_outside_and_keeps_its_data(dockerfile: str) -> None:
    health = re.search(r"^HEALTHCHECK .*$", dockerfile, re.MULTILINE)

    assert health is not None
    assert "/healthz" in health[0]
    assert "HOST=0.0.0.0" in dockerfile
    (volume,) = re.findall(r"^VOLUME (.+)$", dockerfile, re.MULTILINE)
    assert f"FRESHET_DATA_DIR={volume}" in dockerfile
    assert re.search(r'^CMD \["freshet", "serve"\]$', dockerfile, re.MULTILINE)


def test_all_that_the_image_copies_is_in_its_context(dockerfile: str) -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    }

    assert copied == let_in


def test_the_server_starts_once_the_migration_has_been_done_on_a_healthy_database(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]

    assert services["api"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["migrate"]["command"] == ["freshet", "migrate"]
    assert services["postgres"]["healthcheck"]["test"][1] == "pg_isready"
    assert "restart" not in services["migrate"] or services["migrate"]["restart"] == "no"


def test_the_database_has_pgvector_and_outlives_its_container(compose: dict[str, Any]) -> None:
    postgres = compose["services"]["postgres"]

    assert postgres["image"].startswith("pgvector/pgvector:pg")
    (volume,) = postgres["volumes"]
    assert volume.split(":")[0] in compose["volumes"]


@pytest.mark.parametrize("service", ["migrate", "api"])
def test_secrets_come_from_the_environment_and_a_missing_one_is_told(
    compose: dict[str, Any], service: str
) -> None:
    environment = compose["services"][service]["environment"]

    assert environment["SECRET_KEY"].startswith("${SECRET_KEY:?")
    assert "${POSTGRES_PASSWORD:?" in environment["DATABASE_URL"]


def test_every_variable_that_is_handed_to_the_server_is_a_setting(compose: dict[str, Any]) -> None:
    known = {name.upper() for group in groups() for name in group.model_fields}

    assert set(compose["services"]["api"]["environment"]) <= known
    assert {"OPENAI_API_KEY", "OPENAI_BASE_URL"} <= set(compose["services"]["api"]["environment"])


def test_a_container_is_given_longer_to_stop_than_the_server_takes(compose: dict[str, Any]) -> None:
    period = compose["services"]["api"]["stop_grace_period"]

    assert int(period.removesuffix("s")) > ServerSettings.model_fields["shutdown_grace_s"].default + 10

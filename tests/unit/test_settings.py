"""Settings: whatever is wrong is a sentence that names its variable, and no password is ever shown."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.errors import SettingsError
from worker.settings import URL_FILES, Settings, load_settings, variable

REDIS = "redis://:hunter2@localhost:6379/0"
DATABASE = "postgresql://user:hunter2@localhost:5432/name"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*map(variable, Settings.model_fields), *URL_FILES]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REDIS_URL", REDIS)
    monkeypatch.setenv("DATABASE_URL", DATABASE)


def refusal() -> str:
    """What is said of the environment, of which something is wrong."""
    with pytest.raises(SettingsError) as caught:
        load_settings("redis_url", "database_url")
    return str(caught.value)


def database_refusal(url: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_database_url(url)
    return str(caught.value)


def connect_args(url: str) -> dict[str, Any]:
    """What is handed to asyncpg."""
    engine = make_engine(parse_database_url(url), pool_size=1, application_name="test")
    return dict(engine.dialect.create_connect_args(engine.url)[1])


# Variables.


def test_two_urls_are_all_that_must_be_set() -> None:
    settings = load_settings("redis_url", "database_url")
    assert settings.redis_url.get_secret_value() == REDIS
    assert settings.database_url.get_secret_value() == DATABASE
    assert settings.projections == "projections"


def test_everything_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_KEY_PREFIX", "app:")
    monkeypatch.setenv("WORKER_FEED_PARTITIONS", "4")
    monkeypatch.setenv("WORKER_FEED_MAX_LENGTH", "5000")
    monkeypatch.setenv("WORKER_LINGER_MS", "2.5")
    monkeypatch.setenv("WORKER_MAX_PAYLOAD_MEGABYTES", "0.5")
    settings = load_settings()
    assert settings.keys == Keys("app:", 4, 5000)
    assert settings.linger == timedelta(milliseconds=2.5)
    assert settings.max_payload_bytes == 512 * 1024


def test_the_variable_of_a_setting_has_its_name() -> None:
    assert variable("redis_url") == "REDIS_URL"
    assert variable("linger_ms") == "WORKER_LINGER_MS"


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.linger_ms = 1  # type: ignore[misc]


def test_every_process_has_a_name_of_its_own() -> None:
    assert load_settings().consumer_name != load_settings().consumer_name


@pytest.mark.parametrize("absent", ["", None])
@pytest.mark.parametrize("name", ["REDIS_URL", "DATABASE_URL"])
def test_a_url_is_only_missed_by_who_needs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, absent: str | None
) -> None:
    if absent is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, absent)
    load_settings()
    assert refusal().startswith(f"{name} is not set; set it, for example to ")


def test_every_missing_url_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.delenv("DATABASE_URL")
    assert [line.split()[0] for line in refusal().splitlines()] == ["REDIS_URL", "DATABASE_URL"]


TLS_DATABASE = "postgresql://:hunter2@localhost/name?sslmode=verify-full"
WRONG = [
    *[("WORKER_FEED_PARTITIONS", value) for value in ("", "abc", "1.5", "0", "-1", "1025", "nan")],
    *[("WORKER_FEED_MAX_LENGTH", value) for value in ("", "999", "x")],
    *[("WORKER_BATCH_STREAMS", value) for value in ("0", "1", "5001", "x")],
    *[("WORKER_LINGER_MS", value) for value in ("-1", "10001", "nan", "inf", "x")],
    *[("WORKER_SWEEP_SECONDS", value) for value in ("0", "3601", "nan", "inf", "x")],
    *[("WORKER_CLAIM_AFTER_SECONDS", value) for value in ("0", "-5", "x")],
    *[("WORKER_SHUTDOWN_SECONDS", value) for value in ("0", "nan", "x")],
    *[("WORKER_CACHE_MEGABYTES", value) for value in ("-1", "nan", "inf", "x")],
    *[("WORKER_PAGE_MEGABYTES", value) for value in ("0", "nan", "inf", "x")],
    *[("WORKER_MAX_PAYLOAD_MEGABYTES", value) for value in ("0", "nan", "inf", "x")],
    *[("WORKER_LOG_LEVEL", value) for value in ("", "loud", "INFO ", "info,")],
    *[("WORKER_LOG_FORMAT", value) for value in ("", "xml")],
    ("WORKER_CONSUMER_NAME", ""),
    *[("REDIS_URL", value) for value in ("localhost", "http://localhost", "redis:/localhost", " redis://x")],
    *[("REDIS_URL", f"redis://:hunter2@localhost{rest}") for rest in (":port", "/zero", "?db=zero", "?x=1")],
    *[("REDIS_URL", f"redis://localhost?{rest}=1") for rest in ("decode_responses", "socket_timeout")],
    ("REDIS_URL", "redis://localhost?protocol=4"),
    ("REDIS_URL", "redis://localhost?ssl_ca_certs=/etc/hosts"),
    *[("REDIS_URL", f"rediss://:hunter2@localhost?ssl_{rest}") for rest in ("x=1", "cert_reqs=x")],
    *[
        ("REDIS_URL", f"rediss://:hunter2@localhost?ssl_ca_certs={file}")
        for file in ("/nowhere", "/etc/hosts")
    ],
    ("DATABASE_URL", "postgresql://:hunter2@localhost/name?sslrootcert=/etc/hosts"),
    ("DATABASE_URL", "postgresql://:hunter2@localhost/name?sslmode=prefer&sslrootcert=/etc/hosts"),
    *[("DATABASE_URL", f"{TLS_DATABASE}&sslrootcert={file}") for file in ("/nowhere", "/etc/hosts")],
    ("DATABASE_URL", f"{TLS_DATABASE}&sslcert=/etc/hosts&sslkey=/nowhere"),
    *[("DATABASE_URL", value) for value in ("localhost", "mysql://user:hunter2@localhost/name")],
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value}" for name, value in WRONG])
def test_a_wrong_value_is_a_sentence_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    sentence = refusal()
    assert sentence.startswith(f"{name} ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "hunter2" not in sentence


def test_every_wrong_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "nonsense")
    monkeypatch.setenv("DATABASE_URL", "nonsense")
    monkeypatch.setenv("WORKER_LINGER_MS", "nonsense")
    assert [line.split()[0] for line in refusal().splitlines()] == [
        "REDIS_URL",
        "DATABASE_URL",
        "WORKER_LINGER_MS",
    ]


# Files.


@pytest.fixture(params=URL_FILES.items(), ids=list(URL_FILES))
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A variable that names a file, and the variable of its content, which is not set."""
    name, content = request.param
    monkeypatch.delenv(content)
    return name, content


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_url_may_stand_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pair: tuple[str, str], end: str
) -> None:
    url = {"REDIS_URL": REDIS, "DATABASE_URL": DATABASE}[pair[1]]
    (tmp_path / "url").write_text(url + end, newline="")
    monkeypatch.setenv(pair[1], "")  # as good as not set
    monkeypatch.setenv(pair[0], str(tmp_path / "url"))
    settings = load_settings("redis_url", "database_url")
    assert getattr(settings, pair[1].lower()).get_secret_value() == url


def test_a_variable_of_a_file_that_is_empty_is_not_set(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    monkeypatch.setenv(pair[0], "")
    assert refusal().startswith(f"{pair[1]} is not set")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"hunter2\xff", "is no text"),
        (b"hunter2", None),
        (b"redis://:hunter2@localhost\npostgresql://:hunter2@localhost/x\n", None),
        (b"hunter2\0", None),
    ],
)
def test_a_file_of_no_use_is_a_sentence_that_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pair: tuple[str, str], content: bytes | None, reason: str
) -> None:
    path = tmp_path / "url"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(pair[0], str(path))
    sentence = refusal()
    assert sentence.startswith(f"{pair[0]} is wrong: {path} {reason};" if reason else pair[1])
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "hunter2" not in sentence


def test_a_folder_is_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pair: tuple[str, str]) -> None:
    monkeypatch.setenv(pair[0], str(tmp_path))
    assert "cannot be read (Is a directory)" in refusal()


@pytest.mark.parametrize(("name", "content"), URL_FILES.items())
def test_a_url_and_a_file_are_one_too_many(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "url"))
    monkeypatch.setenv("WORKER_LINGER_MS", "nonsense")
    both, other = refusal().splitlines()
    assert both == f"{name} and {content} are both set; set only one of them."
    assert other.startswith("WORKER_LINGER_MS ")  # everything wrong is told at once


# Passwords.


def test_no_password_is_shown() -> None:
    settings = load_settings()
    url = parse_database_url(DATABASE)
    engine = make_engine(url, pool_size=1, application_name="test")
    shown = [repr(settings), str(settings), str(settings.model_dump()), repr(url), str(url), repr(engine)]
    assert not any("hunter2" in text for text in shown)


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "postgres:hunter2@localhost/name",
        "postgresql://user:hunter2@localhost:port/name",
        "mysql://user:hunter2@localhost/name",
        "postgresql://user:hunter2@localhost/name?password2=hunter2",
        "postgresql://user:hunter2@localhost/name?sslmode=hunter2",
    ],
)
def test_no_password_is_in_an_error(url: str) -> None:
    assert "hunter2" not in database_refusal(url)


# URLs of databases.


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_a_database_url_may_be_written_in_three_ways(scheme: str) -> None:
    args = connect_args(f"{scheme}://user:p%40ss@db.example:5433/name")
    assert args["host"] == "db.example"
    assert (args["port"], args["user"], args["password"], args["database"]) == (5433, "user", "p@ss", "name")


def test_a_unix_socket_is_written_as_for_libpq() -> None:
    args = connect_args("postgresql://user@/name?host=/run/postgresql&port=5433")
    assert (args["host"], args["port"], args["database"]) == ("/run/postgresql", 5433, "name")


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
def test_sslmode_is_understood(mode: str) -> None:
    args = connect_args(f"{DATABASE}?sslmode={mode}")
    assert args["ssl"] == mode
    assert "sslmode" not in args


@pytest.mark.parametrize("query", ["sslmode=maybe", "sslmode=require&sslmode=disable", "ssl=yes"])
def test_any_other_sslmode_is_refused(query: str) -> None:
    assert "sslmode" in database_refusal(f"{DATABASE}?{query}")


def test_an_unknown_parameter_is_named() -> None:
    sentence = database_refusal(f"{DATABASE}?connect_timeout=3&options=x")
    assert "not understood: connect_timeout, options." in sentence


def test_an_application_name_is_not_handed_on_as_a_parameter() -> None:
    assert "application_name" not in connect_args(f"{DATABASE}?application_name=mine")

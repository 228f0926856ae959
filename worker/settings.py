"""Settings: read from the environment once, checked, and passed on as one frozen object."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.address import Address, parse_address
from worker.database import parse_database_url
from worker.errors import SettingsError
from worker.keys import Keys
from worker.log import MAX_PAYLOAD_MEGABYTES, PAGE_MEGABYTES
from worker.log_levels import LogLevels, parse_log_levels
from worker.redis_url import names_cluster, parse_redis_url

_READERS: Mapping[str, Callable[[str], object]] = {
    "http_address": parse_address,
    "log_level": parse_log_levels,
}
"""What makes something of a setting, and raises SettingsError where that is wrong."""


def _own_name() -> str:
    """A name for this process that no other has: host, process and a few random letters."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Settings(BaseSettings):
    """All settings. The two URLs have the usual names, everything else begins with ``WORKER_``."""

    model_config = SettingsConfigDict(
        env_prefix="WORKER_", frozen=True, extra="ignore", populate_by_name=True
    )

    redis_url: SecretStr = Field(SecretStr(""), validation_alias="REDIS_URL")
    """Where the logs are: redis://, rediss:// or unix://, or a cluster: redis+cluster:// or rediss+cluster://."""
    database_url: SecretStr = Field(SecretStr(""), validation_alias="DATABASE_URL")
    """Where the read models are: postgresql:// or postgres://."""
    projections: str = "projections"
    """Dotted names of the modules that declare the projections, separated by commas."""
    consumer_name: str = Field(default_factory=_own_name, min_length=1)
    """This replica's name in the consumer group; by default a new one for every process."""
    key_prefix: str = ""
    """Put before every key in Redis, for several deployments on one server."""
    feed_partitions: Annotated[int, Field(ge=1, le=1024)] = 8
    """How many feed partitions the deployment has agreed on."""
    feed_max_length: Annotated[int, Field(ge=1000)] = 1_000_000
    """At about how many hints a feed partition is capped."""
    batch_streams: Annotated[int, Field(ge=2, le=5000)] = 256
    """Up to how many streams are projected at a time."""
    linger_ms: Annotated[float, Field(ge=0, le=10_000)] = 5
    """How long, in milliseconds, an event that is no checkpoint may wait for others."""
    sweep_seconds: Annotated[float, Field(gt=0, le=3600)] = 5
    """Pause between sweeps, and so how late an event without a hint may be projected."""
    claim_after_seconds: Annotated[float, Field(gt=0, le=3600)] = 15
    """After how long hints that another live replica took and did not acknowledge are taken over."""
    shutdown_seconds: Annotated[float, Field(gt=0, le=3600)] = 30
    """How long a stop may take before what is left is cancelled."""
    stuck_seconds: Annotated[float, Field(ge=2, le=3600)] = 30
    """How much CPU time a handler may take without end before the process is ended."""
    cache_megabytes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 64
    """How much memory hot rows may take."""
    page_megabytes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = PAGE_MEGABYTES
    """About how much is read of the logs of one batch at a time."""
    max_payload_megabytes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = MAX_PAYLOAD_MEGABYTES
    """Events with more data than this are rejected."""
    verify_per_minute: Annotated[int, Field(ge=0, le=60_000)] = 0
    """How many rows, chosen by chance, are verified each minute; 0 for none."""
    http_address: str = "127.0.0.1:9464"
    """Where probes, metrics and the status page are, as host:port; nowhere if it is empty."""
    log_level: str = "info"
    """The least important log lines that are shown; of parts others: ``info,feed=debug``."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """How log lines look: auto is console on a terminal and JSON elsewhere."""

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value():
            return value  # `load_settings` says so, if the command needs it.
        try:
            parse_redis_url(value.get_secret_value())
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value():
            return value  # `load_settings` says so, if the command needs it.
        try:
            parse_database_url(value.get_secret_value())
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("key_prefix")
    @classmethod
    def _check_key_prefix(cls, value: str, info: ValidationInfo) -> str:
        url = info.data.get("redis_url", SecretStr("")).get_secret_value()
        try:
            return Keys(value, on_cluster=names_cluster(url)).prefix
        except ValueError as error:
            raise ValueError(str(error).rstrip(".")) from None

    @field_validator("http_address", "log_level")
    @classmethod
    def _check_what_is_read_later(cls, value: str, info: ValidationInfo) -> str:
        try:
            _READERS[info.field_name or ""](value)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def http(self) -> Address | None:
        """Where HTTP is served; None for nowhere."""
        return parse_address(self.http_address)

    @property
    def log_levels(self) -> LogLevels:
        """Which log lines are shown."""
        return parse_log_levels(self.log_level)

    @property
    def keys(self) -> Keys:
        """The names of all keys in Redis."""
        return Keys(
            self.key_prefix,
            self.feed_partitions,
            self.feed_max_length,
            on_cluster=names_cluster(self.redis_url.get_secret_value()),
        )

    @property
    def linger(self) -> timedelta:
        return timedelta(milliseconds=self.linger_ms)

    @property
    def stuck(self) -> timedelta:
        return timedelta(seconds=self.stuck_seconds)

    @property
    def patience(self) -> timedelta:
        """After how long a row that is still missing is missing: a sweep has had time to find its log."""
        return timedelta(seconds=self.sweep_seconds + 3)

    @property
    def max_payload_bytes(self) -> int:
        return int(self.max_payload_megabytes * 1024 * 1024)


def variable(setting: str) -> str:
    """The environment variable of a setting."""
    return setting.upper() if setting in ("redis_url", "database_url") else f"WORKER_{setting.upper()}"


URL_FILES = {"REDIS_URL_FILE": "REDIS_URL", "DATABASE_URL_FILE": "DATABASE_URL"}
"""Variables that name a file, and which variable its content takes the place of."""

_EXAMPLES = {
    "redis_url": "redis://localhost:6379/0",
    "database_url": "postgresql://user:password@localhost:5432/name",
}


def load_settings(*needed: Literal["redis_url", "database_url"]) -> Settings:
    """Read the environment. ``needed`` are the servers that the command is going to use.

    Raises SettingsError, whose message is a sentence for every variable that is missing or wrong.
    """
    urls, wrong = _urls_from_files(os.environ)
    try:
        settings = Settings(**urls)
    except ValidationError as error:
        wrong += map(_sentence, error.errors(include_url=False))
    if wrong:
        raise SettingsError("\n".join(wrong))
    missing = [
        f"{variable(name)} is not set; set it, for example to {_EXAMPLES[name]}."
        for name in needed
        if not getattr(settings, name).get_secret_value()
    ]
    if missing:
        raise SettingsError("\n".join(missing))
    return settings


def _urls_from_files(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The URLs that stand in files, by their variables, and a sentence for each file that is of no use."""
    urls: dict[str, Any] = {}
    wrong = []
    for variable_of_file, variable_of_url in URL_FILES.items():
        if not (path := environ.get(variable_of_file)):
            continue
        if environ.get(variable_of_url):
            wrong.append(f"{variable_of_file} and {variable_of_url} are both set; set only one of them.")
            continue
        try:
            urls[variable_of_url] = SecretStr(_content(Path(path)))
        except ValueError as error:
            wrong.append(f"{variable_of_file} is wrong: {path} {error}; name a file that holds a URL.")
    return urls, wrong


def _content(path: Path) -> str:
    """The text of a file, without the newline at its end. ValueError says why not, and never quotes it."""
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    except ValueError:
        raise ValueError("is no text") from None
    if not text:
        raise ValueError("is empty")
    return text


def _sentence(problem: ErrorDetails) -> str:
    """One problem in words, without the value: it may be a password."""
    place = str(problem["loc"][0])
    name = place if place in ("REDIS_URL", "DATABASE_URL") else variable(place)
    reason = problem["msg"].removeprefix("Value error, ")
    return reason if reason.startswith(name) else f"{name} is wrong: {reason[:1].lower()}{reason[1:]}."

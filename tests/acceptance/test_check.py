"""The command `check`, as a person types it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import make_url

from tests.acceptance.commands import call, call_here, worker_environment
from tests.checking import NOWHERE_POSTGRESQL, NOWHERE_REDIS
from tests.servers import RunningServers


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix)


def test_it_ends_with_0_where_there_is_no_error_and_says_what_is_fine(env: dict[str, str]) -> None:
    checked = call("check", env=env)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "ok: Writing to the tables\n" in checked.stdout
    assert checked.stdout.splitlines()[-1].startswith("0 errors, ")


def test_json_has_the_same_keys_whatever_is_found(env: dict[str, str]) -> None:
    for changed, code in (({}, 0), ({"REDIS_URL": NOWHERE_REDIS}, 1)):
        checked = call_here("check", "--json", env={**env, **changed})
        assert checked.returncode == code
        report = json.loads(checked.stdout)
        assert list(report) == ["errors", "warnings", "findings", "ok", "not_checked"]
        assert report["errors"] == code
        for finding in report["findings"]:
            assert list(finding) == ["severity", "finding", "what", "why", "remedy"]
            assert all(finding.values())


@pytest.mark.parametrize(
    ("away", "found", "checked_still", "not_checked"),
    [
        ({"REDIS_URL": NOWHERE_REDIS}, "redis-unreachable", "The schema", "Redis's memory"),
        ({"DATABASE_URL": NOWHERE_POSTGRESQL}, "postgresql-unreachable", "Redis's memory", "The schema"),
    ],
    ids=["redis", "postgresql"],
)
def test_with_one_server_away_the_rest_is_checked_and_no_password_shown(
    servers: RunningServers,
    env: dict[str, str],
    away: dict[str, str],
    found: str,
    checked_still: str,
    not_checked: str,
) -> None:
    """By an administrator, since the worker is not told how Redis is set up."""
    checked = call_here("check", env={**env, "REDIS_URL": servers.admin_redis_url, **away})
    lines = checked.stdout.splitlines()
    assert checked.returncode == 1
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(f"[{found}]")
    assert lines[1].startswith("    Why: ")
    assert lines[2].startswith("    Do: ")
    assert f"ok: {checked_still}" in lines
    assert f"not checked: {not_checked}" in lines
    assert "secret" not in checked.stdout + checked.stderr


def test_a_wrong_password_is_told_without_it(env: dict[str, str], database_url: str) -> None:
    wrong = make_url(database_url).set(password="secret").render_as_string(hide_password=False)
    checked = call_here("check", env={**env, "DATABASE_URL": wrong})
    assert checked.returncode == 1
    assert "secret" not in checked.stdout + checked.stderr


def test_without_urls_it_was_used_wrongly(env: dict[str, str]) -> None:
    checked = call_here("check", env={**env, "REDIS_URL": ""})
    assert (checked.returncode, checked.stdout) == (2, "")

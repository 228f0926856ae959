"""`check` finds settings that get in each other's way, and its list of commands is whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import worker
from tests.checking import deployment, names
from worker import Keys
from worker.check import KINDS, run_checks, settings_fit
from worker.check.redis_rights import trials


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, set()),
        ({"shutdown_seconds": 10}, {"settings-shutdown-below-stuck"}),
        ({"linger_ms": 2000, "claim_after_seconds": 2}, {"settings-claim-below-linger"}),
        ({"linger_ms": 2000, "sweep_seconds": 1}, {"settings-sweep-below-linger"}),
        ({"page_megabytes": 8}, {"settings-page-below-payload"}),
        ({"page_megabytes": 300, "max_payload_megabytes": 300}, {"settings-payload-above-jsonb"}),
    ],
)
async def test_settings_that_get_in_each_others_way_are_found(
    settings: dict[str, Any], found: set[str]
) -> None:
    async with deployment(settings=settings) as of:
        assert names(await run_checks(of, settings_fit.CHECKS)) == found


def test_every_command_that_a_script_runs_is_tried() -> None:
    source = "\n".join(path.read_text() for path in Path(worker.__file__).parent.glob("*.py"))
    run_by_scripts = set(re.findall(r"redis\.p?call\('([A-Z]+)'", source))
    assert len(run_by_scripts) > 10
    assert run_by_scripts <= {command[0] for _, command in trials(Keys(), "strategies")}


def test_every_kind_of_finding_is_named_once_and_caused_by_a_test() -> None:
    tests = Path(__file__).parents[1]
    told = "\n".join(path.read_text() for path in tests.rglob("test_check*.py"))
    all_names = [kind.name for kind in KINDS]
    assert len(all_names) == len(set(all_names))
    assert not [name for name in all_names if f'"{name}"' not in told]

"""Every dependency says from which version on, and what for; none keeps users from a newer one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
OWN = PROJECT["name"]


def dependencies() -> list[str]:
    extras = PROJECT["optional-dependencies"].values()
    everything = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    return [text for text in everything if Requirement(text).name != OWN]


def test_every_dependency_has_a_lower_bound_and_no_upper_one() -> None:
    for text in dependencies():
        assert [bound.operator for bound in Requirement(text).specifier] == [">="], text


def test_every_dependency_has_a_reason_beside_it() -> None:
    assert len(dependencies()) > 30
    for text in dependencies():
        assert re.search(rf'^    "{re.escape(text)}", *# \w.+$', PYPROJECT, re.MULTILINE), text

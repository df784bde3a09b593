"""Generated files are what their generators write now, and documents point at files that exist."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from manor.cli.status import STATUS
from manor.cli.trace import KINDS
from manor.host.examine import TOPICS
from manor.host.finding import JUDGEMENTS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def load_generator() -> object:
    spec = importlib.util.spec_from_file_location("command_docs", ROOT / "tools" / "gen" / "command_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_reference_of_commands_is_up_to_date() -> None:
    generator = load_generator()
    for path, text in generator.pages().items():  # type: ignore[attr-defined]
        assert path.read_text("utf-8") == text, f"{path}: run tools/gen/command_docs.py"


def test_reference_of_manor_run_names_every_trace_and_status() -> None:
    generator = load_generator()
    assert set(generator.TRACES) == set(KINDS)  # type: ignore[attr-defined]
    documented = {status for status, _ in generator.STATUSES}  # type: ignore[attr-defined]
    assert {str(status) for status in STATUS.values()} <= documented


def test_reference_of_manor_doctor_names_every_verdict_and_topic() -> None:
    generator = load_generator()
    assert tuple(generator.VERDICTS) == JUDGEMENTS  # type: ignore[attr-defined]
    assert list(generator.FACTS) == list(TOPICS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_work(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which is not there"

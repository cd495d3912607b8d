from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.errors import ConfigurationError
from simgym.evaluation.matrix import summarise_cell
from simgym.report.figures import matrix_heatmap_svg
from simgym.report.html import render_report, write_report
from simgym.report.results import MatrixResults
from simgym.transcripts import Transcript

HOSTILE = "<script>alert('x')</script> & <img src=http://evil.example/x> $\\frac$"


def held(n, reward, said="hello", **changes):
    return Transcript(
        env_id="UserSim-Replay-v0",
        scenario=Scenario(f"s{n}", f"{INTENT_PREFIX}{said}", "hi"),
        seed=n,
        conversation=Conversation().add("user", said).add("assistant", said),
        end_reason="turn_limit" if reward is not None else "judge_fault",
        reward=reward,
        fault=None if reward is not None else f"unparsable: {said}",
        reasons=(said,),
        **changes,
    )


def made(assistant="plain", said="hello"):
    transcripts = {
        (assistant, "UserSim-Replay-v0"): [held(n, n / 10, said) for n in range(8)] + [held(9, None, said)],
        (assistant, "UserSim-Persona-v0"): [held(1, None, said)],
    }
    cells = [summarise_cell(*key, several, path="x.jsonl", seed=1) for key, several in transcripts.items()]
    results = MatrixResults(
        title=f"Title {said}",
        question=said,
        created="2026-01-01T00:00:00+00:00",
        simgym_version="0",
        seed=1,
        max_turns=2,
        judge="relevance",
        measures="relevance, not helpfulness",
        scenario_source=said,
        scenarios_n=9,
        assistants=(assistant,),
        simulators=("UserSim-Replay-v0", "UserSim-Persona-v0"),
        cells=tuple(cells),
        seconds=1.0,
        fingerprints={"judge": {"said": said}},
        notes=(said,),
    )
    return results, transcripts


def test_a_failed_judgement_is_excluded_and_counted_not_averaged():
    results, _ = made()
    cell = results.cells[0]
    assert cell.estimate.value == pytest.approx(35.0)
    assert (cell.conversations, cell.counted, dict(cell.excluded)) == (9, 8, {"judge_fault: unparsable": 1})
    assert results.cells[1].estimate.value is None


def test_whatever_was_said_or_named_stays_text():
    page = render_report(*made(assistant=HOSTILE, said=HOSTILE))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;") > 5


def test_the_page_asks_for_nothing_outside_itself():
    page = render_report(*made())
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!#)[a-z]+:""", page)
    assert "@import" not in page
    assert "url(http" not in page


def test_cells_without_data_say_so_in_picture_and_table():
    page = render_report(*made())
    assert page.count("no data") >= 2


def test_results_survive_json_and_refuse_other_versions(tmp_path):
    results, transcripts = made()
    value = json.loads(json.dumps(results.to_json(), allow_nan=False))
    assert MatrixResults.from_json(value) == results
    with pytest.raises(ConfigurationError, match="schema_version 7"):
        MatrixResults.from_json({**value, "schema_version": 7})
    write_report(tmp_path / "deep" / "report.html", results, transcripts)
    assert (tmp_path / "deep" / "report.html").read_text().startswith("<!doctype html>")


def test_the_same_results_give_the_same_picture():
    results, _ = made()
    assert matrix_heatmap_svg(results) == matrix_heatmap_svg(replace(results, seconds=2.0))

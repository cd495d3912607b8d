from __future__ import annotations

import html
import json
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.dom import minidom

import pytest

from simgym.conversation import INTENT_PREFIX, Conversation, Scenario
from simgym.errors import ConfigurationError, TranscriptError
from simgym.evaluation import Curve, Matrix, compare_cells, reward_contrasts, win_contrasts
from simgym.evaluation.contrasts import corrected
from simgym.evaluation.matrix import summarise_cell
from simgym.report import MatrixResults, write_report
from simgym.report.figures import difference_heatmap_svg, matrix_heatmap_svg
from simgym.report.html import render_report
from simgym.report.results import short_name
from simgym.statistics.intervals import format_p, format_p_equation
from simgym.transcripts import ModelCall, Transcript

HOSTILE = "--><script>alert('x')</script> & <img src=http://evil.example/x> ]]> {{ 7*6 }} $\\frac$ \x00"

COMMITTED = Path(__file__).parents[2] / "benchmarks/results/controlled_experiment/results.json"
"""Written by an older version: schema 1."""
TranscriptsByCell = dict[tuple[str, str], list[Transcript]]


def held(n: int, reward: float | None, said: str = "hello", **changes: Any) -> Transcript:
    return Transcript(
        env_id="UserSim-Replay-v0",
        scenario=Scenario(f"s{n}", f"{INTENT_PREFIX}{said}", opening="hi"),
        seed=n,
        conversation=Conversation().add("user", said).add("assistant", said),
        end_reason="turn_limit" if reward is not None else "judge_fault",
        reward=reward,
        fault=None if reward is not None else f"unparsable: {said}",
        reasons=(said,),
        **changes,
    )


def made(assistant: str = "plain", said: str = "hello", **changes: Any) -> tuple[MatrixResults, TranscriptsByCell]:
    transcripts = {
        (assistant, "UserSim-Replay-v0"): [held(n, n / 10, said, **changes) for n in range(8)] + [held(9, None, said)],
        (assistant, "UserSim-Persona-v0"): [held(1, None, said)],
    }
    cells = [summarise_cell(*key, of_cell, path="x.jsonl", seed=1) for key, of_cell in transcripts.items()]
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


def call(turn: int, fault: str | None, prompt_tokens: int = 1000) -> ModelCall:
    return ModelCall(
        role="user",
        turn=turn,
        seed=0,
        prompt="p",
        output="o",
        prompt_tokens=prompt_tokens,
        completion_tokens=7,
        fault=fault,
    )


def test_a_failed_judgement_is_excluded_and_counted_not_averaged() -> None:
    results, _ = made()
    cell = results.cells[0]
    assert cell.estimate.value == pytest.approx(35.0)
    assert (cell.conversations, cell.counted, dict(cell.excluded)) == (9, 8, {"judge_fault: unparsable": 1})
    assert results.cells[1].estimate.value is None


def test_whatever_was_said_or_named_stays_text() -> None:
    page = render_report(*made(assistant=HOSTILE, said=HOSTILE, calls=(call(0, HOSTILE),)))
    assert "<script" not in page
    assert "<img" not in page
    assert "{{ 7*6 }}" in page
    assert page.count("&lt;script&gt;") > 5


def test_no_character_of_a_written_page_acts_unseen(tmp_path: Path) -> None:
    acting = "\x1b[31m\x9b\u202eEVIL\u2066\u200b\x00\r\x85"
    write_report(tmp_path / "r.html", *made(assistant=f"a{acting}", said=acting, calls=(call(0, acting),)))
    for path in tmp_path.rglob("*.html"):
        page = path.read_bytes().decode()
        assert page.replace("\n", "").replace("\t", "").isprintable()
        assert "‹U+202E›EVIL" in page


def test_the_page_asks_for_nothing_outside_itself() -> None:
    page = render_report(*made())
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!#)[a-z/.]""", page)
    assert "@import" not in page
    assert not re.findall(r"url\((?!['\"]?#)", page)


def test_cells_without_data_say_so_in_picture_and_table() -> None:
    results, transcripts = made()
    assert matrix_heatmap_svg(results).count("no data") == 1
    assert render_report(results, transcripts).count("no data") >= 3
    assert "no data" in render_report(replace(results, cells=()), {})


def test_what_did_not_count_is_totalled_by_reason() -> None:
    page = render_report(*made())
    assert "2 of 10 conversations ended in a fault" in page
    assert "<strong>2</strong> × judge fault: unparsable" in page


def test_tokens_are_totalled_over_the_cells() -> None:
    page = render_report(*made(calls=(call(0, None),)))
    assert re.search(r">user</th><td>8,000</td><td>56</td>", page)


def test_an_unused_attempt_is_flagged_at_its_turn_and_a_lost_turn_is_shown_last() -> None:
    calls = (call(0, "empty: no text"), call(0, "empty: no text"), call(0, None), call(1, "unparsable: no JSON"))
    page = render_report(*made(calls=calls), max_conversations=1)
    first_turn = page[page.index('class="turn user"') : page.index('class="turn assistant"')]
    assert "2 attempts not used: empty: no text" in first_turn
    assert "1 attempt not used: unparsable" in page[page.index('class="turn user lost"') :]


def test_only_the_first_conversations_of_a_cell_are_shown() -> None:
    page = render_report(*made(), max_conversations=2)
    assert page.count("<article") == 3
    assert "2 of 9 shown" in page


def test_results_survive_json(tmp_path: Path) -> None:
    results, _ = made()
    assert MatrixResults.from_json(json.loads(json.dumps(results.to_json(), allow_nan=False))) == results


def test_results_of_the_first_schema_keep_their_differences_and_p_values() -> None:
    value = json.loads(COMMITTED.read_text(encoding="utf-8"))
    results = MatrixResults.from_json(value)
    assert value["schema_version"] == 1
    assert results.comparisons is not None
    changes, contrasts = value["comparisons"]["changes"], value["contrasts"]
    differences = results.comparisons.differences
    assert [cell.p_adjusted for cell in differences] == [cell["p_corrected"] for cell in changes]
    assert [(pair.p_value, pair.p_adjusted) for pair in results.contrasts] == [
        (pair["p"], pair["p_corrected"]) for pair in contrasts
    ]
    assert any(pair.p_value for pair in results.contrasts)
    assert MatrixResults.from_json(json.loads(json.dumps(results.to_json()))) == results


def test_results_that_cannot_be_read_are_refused_in_a_sentence() -> None:
    value = made()[0].to_json()
    with pytest.raises(ConfigurationError, match="schema_version 7"):
        MatrixResults.from_json({**value, "schema_version": 7})
    with pytest.raises(ConfigurationError, match="title"):
        MatrixResults.from_json({name: item for name, item in value.items() if name != "title"})
    with pytest.raises(ConfigurationError, match="expected a JSON object"):
        MatrixResults.from_json([])  # type: ignore[arg-type]


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_report(tmp_path / "deep" / "report.html", *made())
    assert (tmp_path / "deep" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "taken").mkdir()
    with pytest.raises(TranscriptError, match="is a folder, expected a file"):
        write_report(tmp_path / "taken", *made())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "taken"]


def test_the_same_results_give_the_same_picture() -> None:
    results, _ = made()
    assert matrix_heatmap_svg(results) == matrix_heatmap_svg(replace(results, seconds=2.0))


@pytest.mark.parametrize("name", ["", "a\nb", "日本語 🙂", "nul\x00", "$x^2$ \\frac", "<b>&\"'", "\ud800", "x" * 300])
def test_any_name_gives_a_well_formed_picture_without_warnings(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = matrix_heatmap_svg(made(assistant=name)[0])
    minidom.parseString(svg.encode("utf-8"))
    assert "$x^2$" in svg or "$" not in name


def test_long_names_keep_both_ends_in_the_picture() -> None:
    svg = matrix_heatmap_svg(made(assistant=f"organisation/{'x' * 80}-instruct")[0])
    assert "organisation/" in svg
    assert "instruct" in svg
    assert "…" in svg


def compared() -> tuple[MatrixResults, TranscriptsByCell]:
    """Two assistants; the second gains ten points with the simulator it was trained with, and none with the other."""
    columns = ("UserSim-Replay-v0", "UserSim-Persona-v0")
    transcripts = {
        (name, column): [held(n, n / 20 + gain * (0.9 if n % 2 else 1.1)) for n in range(8)]
        for name, gains in {"initial": (0, 0), "trained": (0.1, 0)}.items()
        for column, gain in zip(columns, gains, strict=True)
    }
    cells = tuple(summarise_cell(*key, of_cell, path="x.jsonl", seed=1) for key, of_cell in transcripts.items())
    comparisons = compare_cells(Matrix(cells, transcripts, {}), trained_on={"trained": columns[0]}, seed=1)
    matrix, pair = Matrix(cells, transcripts, {}), [("trained", "initial")]
    contrasts = win_contrasts(matrix, pair, columns[0], seed=1) + reward_contrasts(matrix, pair, columns[0], seed=1)
    results = replace(
        made()[0],
        assistants=("initial", "trained"),
        cells=cells,
        comparisons=comparisons,
        contrasts=tuple(corrected(contrasts)),
    )
    return results, transcripts


class Tables(HTMLParser):
    """Texts of the cells of every table, row by row, by the label of the region round it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._label = ""
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("role") == "region":
            self._label = values.get("aria-label") or ""
        elif tag == "table":
            while self._label in self.tables:  # a table without a region of its own
                self._label += " again"
            self.tables[self._label] = []
        elif tag == "tr":
            self.tables[self._label].append([])
        elif tag in ("td", "th"):
            self.tables[self._label][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[self._label][-1][-1] += data + " "


def told(estimate: dict[str, Any], form: str) -> str:
    """An interval as the page shows it."""
    if estimate["low"] is None:
        return f"cannot be told: {estimate['note']}"
    return f"{estimate['low']:{form}} to {estimate['high']:{form}}"


def test_the_numbers_of_the_page_are_those_of_the_json() -> None:
    results, transcripts = compared()
    tables = Tables(render_report(results, transcripts)).tables
    value = json.loads(json.dumps(results.to_json()))
    matrix = tables["The matrix as a table"]
    assert [row[0].strip() for row in matrix] == ["", "Assistant (replies)", "initial", "trained trained  with  Replay"]
    for cell in value["cells"]:
        row = next(row for row in matrix if row[0].startswith(cell["assistant"]))
        shown = row[1 + value["simulators"].index(cell["simulator"])]
        estimate = cell["estimate"]
        assert re.findall(r"-?\d+\.?\d*", shown) == [
            *(f"{estimate[key]:.1f}" for key in ("value", "low", "high")), str(cell["counted"]),
            str(cell["conversations"]),
        ]  # fmt: skip
    for difference, row in zip(
        value["comparisons"]["differences"], tables["The differences as a table"][1:], strict=True
    ):
        estimate = difference["estimate"]
        home = value["comparisons"]["trained_on"].get(difference["assistant"])
        trained = " training simulator" if home == difference["simulator"] else ""
        assert [text.strip() for text in row] == [
            difference["assistant"], short_name(difference["simulator"]) + trained, f"{estimate['value']:+.1f}",
            told(estimate, "+.1f"), str(estimate["n"]),
            format_p(difference["p_adjusted"]),
            "–" if difference["detectable"] is None else f"{difference['detectable']:.1f}",
        ]  # fmt: skip
    for contrast, row in zip(value["contrasts"], tables["Assistants against each other"][1:], strict=True):
        form = "{:+.1f}" if contrast["kind"] == "difference" else "{:.1f}"
        value_ = form.format(contrast["estimate"]["value"])
        assert [text.strip() for text in row] == [
            contrast["first"], contrast["second"], short_name(contrast["simulator"]),
            "reward × 100" if contrast["kind"] == "difference" else "win rate, %",
            value_, told(contrast["estimate"], form[2:-1]), str(contrast["estimate"]["n"]),
            format_p(contrast["p_adjusted"]),
        ]  # fmt: skip
    for cell, row in zip(value["cells"], tables["Lengths and endings"][1:], strict=True):
        assert [text.strip() for text in row[2:]] == [
            f"{cell['mean_assistant_turns']:.1f}", f"{cell['characters']['assistant']:.0f}",
            f"{cell['characters']['user']:.0f}", *(str(number) for number in cell["end_reasons"].values()),
        ]  # fmt: skip


def test_pairs_show_the_largest_gain_and_loss_and_can_be_filtered_without_a_script() -> None:
    results, transcripts = compared()
    lucky = [
        replace(transcript, reward=0.05 * at)
        for at, transcript in enumerate(transcripts["initial", "UserSim-Persona-v0"])
    ]
    lucky[2] = replace(lucky[2], reward=0.9)
    lucky[5] = replace(lucky[5], reward=0.0)
    lucky[6] = held(6, None)
    page = render_report(results, {**transcripts, ("trained", "UserSim-Persona-v0"): lucky})
    part = page[page.index("Side by side") : page.index("<h2>Conversations")]
    assert re.findall(r"<small>(.*?)</small></summary>", part) == [
        "+11.0, the largest gain", "+9.0, the median difference",
        "+80.0, the largest gain", "-25.0, the largest loss", "+0.0, the median difference", "does not count",
    ]  # fmt: skip
    assert 'class="pair who-0 with-1 kind-1"' in part
    assert 'id="kind-1"' in part
    assert "main:has(#kind-1:checked) .pair:not(.kind-1)" in page
    assert "<script" not in page


def test_hostile_names_and_words_stay_text_side_by_side_too(tmp_path: Path) -> None:
    results, transcripts = compared()
    talk = Conversation().add("user", HOSTILE)
    hostile = {
        cell: [replace(transcript, reasons=(HOSTILE,), conversation=talk) for transcript in of_cell]
        for cell, of_cell in transcripts.items()
    }
    page = render_report(results, hostile)
    assert "<script" not in page
    assert "<img" not in page
    write_report(tmp_path / "r.html", results, hostile, all_conversations=True)
    for path in (tmp_path / "r-conversations").iterdir():
        assert "<script" not in path.read_text(encoding="utf-8")
        assert "{{ 7*6 }}" in path.read_text(encoding="utf-8")


def test_every_conversation_is_on_a_page_that_the_report_leads_to(tmp_path: Path) -> None:
    results, transcripts = compared()
    scenarios = [Scenario(f"s{number}", f"{INTENT_PREFIX}x", opening="hi") for number in range(60)]
    crowded = {
        cell: [replace(of_cell[0], seed=number, scenario=scenario) for number, scenario in enumerate(scenarios)]
        for cell, of_cell in transcripts.items()
    }
    write_report(tmp_path / "report.html", results, crowded, max_conversations=0, all_conversations=True)
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(report-conversations/[^"]+)"', report)
    assert len(links) == 2 * 3  # simulators by 25 scenarios
    pages = [(tmp_path / link).read_text(encoding="utf-8") for link in links]
    assert sum(page.count("<article") for page in pages) == 4 * 60
    assert 'href="../report.html"' in pages[0]
    assert 'href="01-0002.html"' in pages[0]


def test_learning_curves_are_drawn() -> None:
    curve = Curve("run <b>", "update", (1, 2, 3), (20.0, 25.0, 31.5))
    results, transcripts = compared()
    page = render_report(replace(results, curves=(curve,)), transcripts)
    assert "Learning curves" in page
    assert "run &lt;b&gt;" in page
    assert "<h2>Training</h2>" not in render_report(results, transcripts)
    assert MatrixResults.from_json(json.loads(json.dumps(replace(results, curves=(curve,)).to_json()))).curves == (
        curve,
    )


def test_differences_stand_in_picture_and_table_with_the_gap() -> None:
    results, transcripts = compared()
    page = render_report(results, transcripts)
    picture = difference_heatmap_svg(results)
    assert picture is not None
    assert "+10.0" in picture
    assert picture.count("stroke-width: 2.5") == 1  # the cell of the simulator it was trained with
    assert "Difference from initial" in page
    assert "gained 10.0" in " ".join(page.split())
    difference = results.comparisons.difference("trained", "UserSim-Replay-v0") if results.comparisons else None
    assert difference is not None
    assert format_p_equation(difference.p_adjusted) in html.unescape(page)
    assert MatrixResults.from_json(json.loads(json.dumps(results.to_json()))) == results


def test_without_a_second_assistant_there_are_no_differences() -> None:
    results, transcripts = made()
    assert difference_heatmap_svg(results) is None
    assert "Difference from" not in render_report(results, transcripts)

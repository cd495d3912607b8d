"""Assistants in environments: from an assistant and an environment to transcripts on disk.

Conversations run in batches, one assistant call, one simulator call and one judge call per turn. A finished one is
appended to the file at once; a run that was killed goes on where it stopped, and conversations in the file are not
done again. Seeds depend on the run's seed and the scenario's id alone, so neither batch size nor order nor a resumption
changes a conversation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simgym.assistants.base import Assistant, AssistantTurn
from simgym.conversation import Scenario
from simgym.envs.conversation_env import ConversationEnv
from simgym.envs.episodes import Episode, Episodes
from simgym.envs.settings import ConversationSettings
from simgym.envs.vector_env import UserSimVectorEnv
from simgym.errors import ConfigurationError, InvalidAction
from simgym.seeding import derive_seed
from simgym.transcripts import Transcript, TranscriptWriter, read_transcripts


def collect(
    assistant: Assistant,
    env: Any,
    *,
    n: int | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    batch_size: int = 32,
    progress: Callable[[Transcript], None] | None = None,
) -> list[Transcript]:
    """Hold n conversations and return their transcripts.

    Args:
        assistant: Who answers the simulated users.
        env: A simgym environment, single or vector (wrappers are looked through); only its settings are used.
        n: How many; scenarios are taken in order, and from the start again with other seeds. None: each once.
        seed: Decides everything random.
        path: JSONL file to append to and to resume from; None: nothing is written.
        batch_size: Conversations held at the same time, >= 1.
        progress: Called with each transcript as it is finished, and with those found in the file.

    Returns:
        n transcripts in the order of the scenarios.

    Raises:
        ConfigurationError: `env` is no simgym environment, or the file was written by another assistant, simulator,
            judge or environment: results must not be mixed.
        TranscriptError: the file cannot be written; what was written is intact.
    """
    base = env.unwrapped
    if not isinstance(base, ConversationEnv | UserSimVectorEnv):
        raise ConfigurationError(f"The environment is a {type(base).__name__}, expected one of simgym's (UserSim-...).")
    env_id = base.spec.id if base.spec is not None else type(base).__name__
    episodes = base.episodes
    plan = plan_conversations(list(episodes.scenarios.values()), n, seed)
    fingerprints = {
        "assistant": assistant.fingerprint(),
        "simulator": episodes.simulator.fingerprint(),
        "judge": episodes.judge.fingerprint(),
        "env": {"max_turns": episodes.max_turns},
    }
    done: dict[tuple[str, int], Transcript] = {}
    writer = TranscriptWriter(path) if path is not None else None
    try:
        if writer is not None and writer.written:
            for transcript in read_transcripts(writer.path):
                _check_same_run(transcript, env_id, fingerprints, writer.path)
                done[transcript.key] = transcript
        wanted = {(scenario.id, chosen) for scenario, chosen in plan}
        if progress is not None:
            for key in wanted & done.keys():
                progress(done[key])
        missing = [(scenario, chosen) for scenario, chosen in plan if (scenario.id, chosen) not in done]
        for start in range(0, len(missing), max(1, batch_size)):
            batch = missing[start : start + max(1, batch_size)]

            def finish(transcript: Transcript) -> None:
                if writer is not None:
                    writer.append(transcript)
                done[transcript.key] = transcript
                if progress is not None:
                    progress(transcript)

            _converse(assistant, episodes, base.settings, batch, env_id, fingerprints, finish)
    finally:
        if writer is not None:
            writer.close()
    return [done[scenario.id, chosen] for scenario, chosen in plan]


def plan_conversations(scenarios: Sequence[Scenario], n: int | None, seed: int) -> list[tuple[Scenario, int]]:
    """Which scenario runs with which seed: scenarios in order, further rounds with other seeds."""
    count = len(scenarios) if n is None else n
    if count < 1:
        raise ConfigurationError(f"n is {n}, expected >= 1.")
    chosen = [(scenarios[number % len(scenarios)], number // len(scenarios)) for number in range(count)]
    return [(scenario, derive_seed(seed, "conversation", scenario.id, around)) for scenario, around in chosen]


def count_exclusions(transcripts: Sequence[Transcript]) -> dict[str, int]:
    """Conversations that do not enter means, by end reason and kind of fault."""
    reasons = Counter(
        f"{transcript.end_reason}: {(transcript.fault or 'unknown').split(':')[0]}"
        for transcript in transcripts
        if not transcript.counts
    )
    return dict(sorted(reasons.items()))


def _converse(
    assistant: Assistant,
    episodes: Episodes,
    settings: ConversationSettings,
    batch: Sequence[tuple[Scenario, int]],
    env_id: str,
    fingerprints: Mapping[str, Mapping[str, Any]],
    finish: Callable[[Transcript], None],
) -> None:
    started = time.monotonic()
    running = episodes.start([scenario for scenario, _ in batch], [chosen for _, chosen in batch])
    while running:
        ended = [episode for episode in running if episode.end_reason is not None]
        for episode in ended:
            finish(_transcript(episode, env_id, fingerprints, time.monotonic() - started))
        running = [episode for episode in running if episode.end_reason is None]
        if not running:
            return
        turns = assistant.respond(
            [episode.conversation for episode in running],
            seeds=[derive_seed(episode.seed, "assistant", episode.turn) for episode in running],
        )
        take_turns(episodes, settings, running, turns)


def take_turns(
    episodes: Episodes, settings: ConversationSettings, running: Sequence[Episode], turns: Sequence[AssistantTurn]
) -> None:
    """Let the assistant speak in N running conversations; one whose turn is a fault or no valid action ends with it."""
    speaking: list[Episode] = []
    said: list[str] = []
    for episode, turn in zip(running, turns, strict=True):
        episode.calls += turn.calls
        fault = turn.fault
        if fault is None:
            try:
                said.append(settings.check_action(turn.text))
                speaking.append(episode)
            except InvalidAction as error:
                fault = f"invalid: {error}"
        if fault is not None:
            overflow = fault.startswith("context_overflow")
            episode.end_reason = "context_overflow" if overflow else "assistant_fault"
            episode.fault = fault
    if speaking:
        episodes.advance(speaking, said)


def _transcript(
    episode: Episode, env_id: str, fingerprints: Mapping[str, Mapping[str, Any]], seconds: float
) -> Transcript:
    return Transcript(
        env_id=env_id,
        scenario=episode.scenario,
        seed=episode.seed,
        conversation=episode.conversation,
        end_reason=episode.end_reason or "assistant_fault",
        reward=episode.reward,
        fault=episode.fault,
        reasons=episode.reasons,
        judge_values=episode.judge_values,
        fingerprints=fingerprints,
        calls=tuple(episode.calls),
        seconds=round(seconds, 3),
    )


def _check_same_run(
    transcript: Transcript, env_id: str, fingerprints: Mapping[str, Mapping[str, Any]], path: Path
) -> None:
    if transcript.env_id != env_id:
        raise ConfigurationError(
            f"{path} holds conversations with {transcript.env_id}, not {env_id}. Choose another file."
        )
    for role, expected in fingerprints.items():
        written = dict(transcript.fingerprints.get(role, {}))
        if written != expected:
            different = sorted(key for key in {*written, *expected} if written.get(key) != expected.get(key))
            raise ConfigurationError(
                f"{path} was written with another {role} (different: {', '.join(different)}). "
                "Choose another file, or delete that one to start over."
            )

"""JSON schemas of the files that simgym reads and writes, made from the records that read them.

    python docs/tools/schemas.py            # prints them as one JSON object

A record's fields, annotations and the texts under them are the schema: `simgym.typed_json` checks files against the
same annotations. Where a file names a field otherwise than the record does (`messages`, `judge_values`), it says so
here. Keys that a record does not know are ignored by its reader, so schemas allow them.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from simgym.assistants.training_record import TrainingRecord
from simgym.cli.experiment_flags import field_texts
from simgym.conversation import Conversation, Message, Scenario
from simgym.data.logged import LoggedConversation
from simgym.evaluation.config import ExperimentConfig
from simgym.evaluation.judge_validation import Pair
from simgym.evaluation.labels import Label
from simgym.evaluation.plan import Plan
from simgym.evaluation.wildbench import Answer, Verdict
from simgym.judges.people_record import PeopleRecord
from simgym.report.results import MatrixResults
from simgym.study.config import Study
from simgym.study.records import _Participant
from simgym.transcripts import Transcript

_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One kind of file."""

    title: str
    """What to call it."""
    file: str
    """Names of such files, and whether it is a line of one."""
    record: type
    """The dataclass that reads it."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Names in the file by names of the record's fields."""
    absent: frozenset[str] = frozenset()
    """Fields that the reader fills in."""
    optional: frozenset[str] = frozenset()
    """Fields that the file may leave out though the record has no default."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Fields that may be written in another JSON type, too, by name: `object` or `array`."""


_NAMED = dict.fromkeys(("models", "simulator_options", "judge_options", "trained_on", "prices"), "object")
FORMATS = (
    Format(
        title="Experiment",
        file="`experiment.yaml`, of `simgym matrix --config`",
        record=ExperimentConfig,
        also={"assistants": "array", **_NAMED},
    ),
    Format(title="Scenario", file="`scenarios.jsonl`, one a line", record=Scenario),
    Format(
        title="Transcript",
        file="`runs/*.jsonl` and `transcripts/*.jsonl`, one a line",
        record=Transcript,
        renamed={"conversation": "messages", "components": "judge_values"},
    ),
    Format(title="Plan", file="`plan.json` of a matrix", record=Plan),
    Format(title="Results", file="`results.json` of a matrix", record=MatrixResults),
    Format(title="Training record", file="`simgym.json` in a trained folder", record=TrainingRecord),
    Format(title="Label", file="`labels.jsonl` of a run, written by `simgym view --web`, one a line", record=Label),
    Format(title="Study", file="`study.yaml`, of `simgym study`", record=Study),
    Format(title="Participant", file="`records.jsonl` of a study, one a line", record=_Participant),
    Format(
        title="Logged conversation",
        file="What `simgym data` writes and reads, one a line",
        record=LoggedConversation,
        renamed={"id": "conversation_hash"},
    ),
    Format(
        title="Pair of answers",
        file="What `simgym judge validate` reads, one a line",
        record=Pair,
        renamed={"subset": "rejected_model"},
        absent=frozenset({"id", "scenario", "conversations"}),
        optional=frozenset({"subset"}),
    ),
    Format(title="Judge's record", file="What `simgym judge validate --people` keeps of a judge", record=PeopleRecord),
    Format(title="WildBench answer", file="`answers.jsonl` of `simgym wildbench run`, one a line", record=Answer),
    Format(title="WildBench verdict", file="`PROTOCOL.jsonl` of `simgym wildbench score`, one a line", record=Verdict),
)


def schema_of(form: Format) -> dict[str, Any]:
    """The JSON schema of a kind of file."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": form.title}
    if issubclass(form.record, BaseModel):
        return {**dialect, **form.record.model_json_schema(), "title": form.title}
    definitions: dict[str, Any] = {}
    schema = _record(form.record, definitions, form.renamed)
    left_out = {form.renamed.get(name, name) for name in form.absent | form.optional}
    schema["required"] = [name for name in schema["required"] if name not in left_out]
    for name in form.absent:
        del schema["properties"][name]
    for name, kind in form.also.items():
        text = schema["properties"][name].pop("description")
        schema["properties"][name] = {"anyOf": [schema["properties"][name], {"type": kind}], "description": text}
    return {**dialect, **schema, **({"$defs": definitions} if definitions else {})}


def _record(cls: Any, definitions: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    hints, texts = get_type_hints(cls), field_texts(cls)
    properties, required = {}, []
    for entry in fields(cls):
        name = renamed.get(entry.name, entry.name)
        properties[name] = schema_for(hints[entry.name], definitions)
        if text := texts.get(entry.name):
            properties[name] = {**properties[name], "description": text}
        if entry.default is MISSING and entry.default_factory is MISSING:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def schema_for(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one annotation; records that it names are put into `definitions`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is object or annotation is Any:
        return {}
    if annotation is Conversation:  # a list in files
        return schema_for(tuple[Message, ...], definitions)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_for(argument, definitions) for argument in arguments]}
    if origin in (tuple, list, Sequence, frozenset):
        if origin is tuple and arguments[-1:] != (Ellipsis,):
            entries = [schema_for(argument, definitions) for argument in arguments]
            return {"type": "array", "prefixItems": entries, "minItems": len(entries), "maxItems": len(entries)}
        return {"type": "array", "items": schema_for(arguments[0], definitions)}
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return {"type": "object", "additionalProperties": schema_for(arguments[1], definitions) if arguments else {}}
    if annotation in _SCALARS:
        return {"type": _SCALARS[annotation]}
    if hasattr(annotation, "parse"):  # read from a text
        return {"type": "string"}
    if is_dataclass(annotation):
        name = annotation.__name__.removeprefix("_")
        if name not in definitions:
            definitions[name] = {}  # a record may hold records of its own kind
            definitions[name] = _record(annotation, definitions, {})
        return {"$ref": f"#/$defs/{name}"}
    raise TypeError(f"There is no schema for {annotation!r}.")


if __name__ == "__main__":
    print(json.dumps({form.title: schema_of(form) for form in FORMATS}, indent=2))

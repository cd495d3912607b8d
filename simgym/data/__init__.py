"""Scenarios, logs and training data, and where they come from."""

from simgym.data._preprocess import preprocess
from simgym.data.chitchat import (
    ChitchatConversations,
    ChitchatScenarios,
    chitchat_conversations,
    chitchat_scenarios,
    chitchat_splits,
    chitchat_strangers,
)
from simgym.data.flipped import flip_conversations
from simgym.data.intents import write_intents
from simgym.data.log_formats import LOG_FORMATS, import_log
from simgym.data.logged import LoggedConversation, StepOutput, StepSummary, read_logged
from simgym.data.openings import write_scenarios
from simgym.data.rows import is_file_name, read_rows
from simgym.data.scenario_sets import ScenarioSet, find_scenario_set, hold_out, load_scenarios
from simgym.data.sources import SOURCES, DataSource, data_file
from simgym.data.splits import SplitSummary, split_conversations
from simgym.data.topics import topic_intent, write_topics
from simgym.data.training_files import ExportOptions, read_run
from simgym.data.wildbench import WildBenchTask, WildBenchTasks, load_wildbench
from simgym.data.wildchat import WildchatScenarios, wildchat_scenarios

__all__ = [
    # scenarios
    "ScenarioSet",
    "load_scenarios",
    "find_scenario_set",
    "hold_out",
    "ChitchatScenarios",
    "chitchat_scenarios",
    "WildchatScenarios",
    "wildchat_scenarios",
    "WildBenchTask",
    "WildBenchTasks",
    "load_wildbench",
    # logs
    "LOG_FORMATS",
    "import_log",
    "read_rows",
    "is_file_name",
    "LoggedConversation",
    "StepSummary",
    "StepOutput",
    "read_logged",
    "ChitchatConversations",
    "chitchat_conversations",
    "chitchat_splits",
    "chitchat_strangers",
    # from logs to training data
    "preprocess",
    "SplitSummary",
    "split_conversations",
    "write_intents",
    "topic_intent",
    "write_topics",
    "write_scenarios",
    "flip_conversations",
    # whose the data is
    "DataSource",
    "SOURCES",
    "data_file",
    # runs, for other tools
    "ExportOptions",
    "read_run",
]

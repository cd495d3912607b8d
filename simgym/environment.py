"""Every environment variable that simgym reads, with its meaning: the source of `simgym --help` and of the README.

The variables themselves are read where they are used; a test compares this table with the code. Variables that other
libraries read (`HF_TOKEN`, `CUDA_VISIBLE_DEVICES`, ...) are theirs and not listed.
"""

from __future__ import annotations

VARIABLES: dict[str, str] = {
    "GOMP_SPINCOUNT": "0, unless you set it or OMP_WAIT_POLICY: torch's threads wait without spinning.",
    "OMP_WAIT_POLICY": "PASSIVE, unless you set it or GOMP_SPINCOUNT. OMP_NUM_THREADS bounds the threads.",
    "OPENAI_API_KEY": "Key of OpenAI-compatible servers; servers of your own usually need none.",
    "OPENAI_BASE_URL": "Address of the server of openai:NAME, e.g. http://localhost:8000/v1. Default: OpenAI.",
    "PIP_CONFIG_FILE": "A file of pip's settings, whose package index may have the default model.",
    "SIMGYM_CACHE": "Folder of converted weights. Default: simgym in $XDG_CACHE_HOME.",
    "SIMGYM_DATA": "Folder of other people's data, see `simgym data sources`. Default: data.",
    "SIMGYM_OUTAGE_WAITS": "Seconds to wait for a silent server before each new attempt. Default: 5,30,60.",
    "SIMGYM_SERVE_TOKEN": "API key that callers of `simgym serve` must send; needed off loopback.",
    "SIMGYM_STUDY_ADMIN_TOKEN": "Password of a study's /admin page; without it there is no such page.",
    "SIMGYM_TRACEBACK": "1: show the traceback of an error instead of one sentence.",
    "XDG_CACHE_HOME": "Folder of caches. Default: ~/.cache.",
    "XDG_CONFIG_HOME": "Folder of pip's settings. Default: ~/.config.",
}
"""Name and meaning."""

from __future__ import annotations

import re
from pathlib import Path

import simgym
from simgym.environment import VARIABLES

_READ = re.compile(r"""(?:environ(?:\.get)?[(\[]|getenv\()\s*["'](\w+)["']""")


def test_every_variable_that_is_read_is_declared_and_every_declared_one_is_read():
    files = Path(simgym.__file__).parent.rglob("*.py")
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    read = set(_READ.findall(code)) | {"OPENAI_API_KEY"}  # the default of an argument that names a variable
    assert read == set(VARIABLES)

"""Render a chat template once, in a process of its own with limits, before anyone renders it in this one.

A chat template is a program that comes with a student. Nothing inside one process can stop it in the middle of a long
loop or a huge repetition, so it is first tried outside. That process runs this module, which imports next to nothing.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 5
"""CPU time; a usual template takes a thousandth of a second."""
MEMORY = 1 << 30
"""Bytes of address space."""
LONGEST = 1 << 22
"""How many more characters a rendered conversation may have than its messages."""
WAIT = 60
"""Seconds of wall-clock time until a process that uses no CPU is stopped."""


def check_template(template: str, values: Mapping[str, Any]) -> str | None:
    """Render a template under limits, and say which one it breaks.

    Args:
        template: Jinja's, as transformers reads it.
        values: What it is rendered with; plain JSON values.

    Returns:
        The end of a sentence about the template. None where it keeps the limits, or fails for another reason.
    """
    given = {"template": template, "values": values, "seconds": SECONDS, "memory": MEMORY}
    try:
        done = subprocess.run(  # noqa: S603 (this file itself, and the template is data)
            [sys.executable, "-P", __file__],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"does not end within {WAIT} s"
    if done.returncode < 0:
        return f"does not end within {SECONDS} s of CPU time"
    if "MemoryError" in done.stdout or "MemoryError" in done.stderr:
        return f"takes more than {MEMORY >> 20} MiB of memory"
    length = int(done.stdout) if done.stdout.isdigit() else 0
    if length > LONGEST + sum(len(str(value)) for value in values.values()):
        return f"writes {length:,} characters for one conversation"
    return None


class _Generation(Extension):
    """transformers' block around what an assistant says; nothing is tracked here."""

    tags = {"generation"}  # noqa: RUF012 (as its base class has it)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The block's body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _limit(seconds: int, memory: int) -> None:
    """Bound this process; on Windows, which has no such limits, the parent's patience is the only one."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _render(template: str, values: Mapping[str, Any]) -> str:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value)
    environment.globals["strftime_now"] = str
    return environment.from_string(template).render(**values)


def main(lines: Sequence[str]) -> None:
    """Write how long the rendered text is, or which error came instead."""
    given = json.loads("".join(lines))
    _limit(given["seconds"], given["memory"])
    try:
        sys.stdout.write(str(len(_render(given["template"], given["values"]))))
    except Exception as error:  # whatever a template may raise; the real rendering reports it
        sys.stdout.write(type(error).__name__)


if __name__ == "__main__":
    main(sys.stdin.readlines())

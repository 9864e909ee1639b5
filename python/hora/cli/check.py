"""``hora check``: what is built, found and usable here, with how to mend what is not.

``--json`` prints one object, whose keys do not change:

    format         1
    hora           this version
    usable         whether a job on this host can run; the exit code is 0 if so, else 1
    built, found, versions, gpus, machine, network, settings
                   for each part, by its key: {"part", "state", "detail", "advice"}
    interfaces     [{"name", "address", "prefix_length", "is_up", "is_chosen"}, …]

States are "ok"; "absent": optional, and not there; "warning": usable, with a drawback; "failed".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import hora
from hora.cli.check_gpus import check_cuda_plugin, gpu_findings
from hora.cli.check_machine import machine_findings, network_findings
from hora.cli.check_parts import (
    Finding,
    built_findings,
    check_core,
    check_torch,
    found_findings,
    plugin_files,
    version_findings,
)
from hora.cli.check_settings import setting_findings
from hora.cli.environment import package_version
from hora.gpus import has_cuda_plugin, look

__all__ = ["Report", "examine", "main", "needed", "print_build"]

_FORMAT = 1
_TITLES = {
    "versions": "Versions",
    "built": "Built",
    "found": "Found",
    "gpus": "GPUs",
    "machine": "This machine",
    "network": "Network",
    "settings": "Settings in force",
}
_COLOURS = {"ok": "green", "absent": "dim", "warning": "yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Report:
    """All findings by section, and the network's interfaces."""

    sections: dict[str, list[Finding]]
    interfaces: list[dict[str, Any]]

    @property
    def failed(self) -> list[Finding]:
        """What keeps a job on this host from running."""
        return [
            finding
            for findings in self.sections.values()
            for finding in findings
            if finding.state == "failed"
        ]

    def document(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "format": _FORMAT,
            "hora": hora.__version__,
            "usable": not self.failed,
            **{name: _by_key(findings) for name, findings in self.sections.items()},
            "interfaces": self.interfaces,
        }


def examine() -> Report:
    """Looks at everything; takes a second or two, for it asks programs for their versions."""
    network, interfaces = network_findings(os.environ)
    sections = {
        "versions": version_findings(hora.__version__),
        "built": [*built_findings(), check_cuda_plugin()],
        "found": found_findings(),
        "gpus": gpu_findings(os.environ),
        "machine": machine_findings(),
        "network": [network],
        "settings": setting_findings(os.environ),
    }
    return Report(sections, interfaces)


def needed() -> list[Finding]:
    """Only what can keep a job from running, and so quickly; PyTorch's absence among it."""
    torch = check_torch()
    if torch.detail.startswith("not installed"):
        torch = replace(torch, state="failed")
    return [check_core(), torch, *machine_findings(), *setting_findings(os.environ)]


def print_build() -> None:
    """What ``horarun --check-build`` shows: the parts in Horovod's words, then this machine."""
    has_torch = package_version("torch") is not None
    has_core = check_core().state == "ok"
    plugins = plugin_files()
    has_nccl = has_cuda_plugin() and look().nccl_version > 0
    has_mpi = plugins["plugin_mpi_ompi"] or plugins["plugin_mpi_mpich"]
    parts = {
        "Available Frameworks": {"TensorFlow": False, "PyTorch": has_torch, "MXNet": False},
        "Available Controllers": {"MPI": False, "Gloo": False, "hora": has_core},
        "Available Tensor Operations": {
            "NCCL": has_nccl, "DDL": False, "CCL": False, "MPI": has_mpi,
            "Gloo": plugins["plugin_gloo"], "hora, shared memory": has_core,
            "hora, TCP": has_core,
        },
    }  # fmt: skip
    parts["This machine"] = {
        f"{finding.part}: {finding.detail}": finding.state in ("ok", "warning")
        for finding in machine_findings()
    }
    print(f"hora v{hora.__version__}:")
    for title, lines in parts.items():
        print(f"\n{title}:")
        for name, is_there in lines.items():
            print(f"    [{'X' if is_there else ' '}] {name}")


def main(words: Sequence[str]) -> int:
    """Prints every finding; returns 1 when a job on this host cannot run."""
    parser = argparse.ArgumentParser(
        prog="hora check",
        description="Say what is built, found and usable here, and how to mend what is not.",
        epilog="Exit code 0: a job on this host can run; 1: it cannot. See also: hora test.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(words)
    report = examine()
    if args.json:
        print(json.dumps(report.document(), indent=2))
    elif sys.stdout.isatty():
        _print_table(report)
    else:
        _print_lines(report)
    return 1 if report.failed else 0


def _by_key(findings: Sequence[Finding]) -> dict[str, dict[str, str]]:
    return {
        finding.key: {key: value for key, value in asdict(finding).items() if key != "key"}
        for finding in findings
    }


def _rows(report: Report) -> list[tuple[str, list[tuple[str, str, str, str]]]]:
    """Titles with (state, part, detail, advice); sections without anything are left out."""
    rows = [
        (_TITLES[name], [(one.state, one.part, one.detail, one.advice) for one in findings])
        for name, findings in report.sections.items()
        if findings
    ]
    for title, lines in rows:
        if title == _TITLES["network"]:
            lines += [
                ("ok" if each["is_up"] else "absent", each["name"],
                 f"{each['address']}/{each['prefix_length']}" + ("" if each["is_up"] else ", down"),
                 "")
                for each in report.interfaces
            ]  # fmt: skip
    return rows


def _verdict(report: Report) -> str:
    if not report.failed:
        return "A job on this host can run; try it with: hora test"
    parts = ", ".join(finding.part for finding in report.failed)
    return f"No job can run on this host before this is mended: {parts}"


def _print_lines(report: Report) -> None:
    for title, lines in _rows(report):
        print(f"{title}:")
        for state, part, detail, advice in lines:
            print(f"  {state:8} {part:18} {detail}" + (f"; fix: {advice}" * bool(advice)))
    print(_verdict(report))


def _print_table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("state", "part"):
        table.add_column(name, no_wrap=True)
    table.add_column("detail", overflow="fold")
    for title, lines in _rows(report):
        table.add_row(Text(title, style="bold"))
        for state, part, detail, advice in lines:
            shown = Text(detail)
            if advice:
                shown.append(f"\n→ {advice}", style="cyan")
            table.add_row(Text(f"  {state}", style=_COLOURS[state]), Text(part), shown)
    console = Console()
    console.print(table)
    console.print(Text(_verdict(report), style="bold red" if report.failed else "bold green"))

"""``sam3lt doctor``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from sam3lt_ray.commands.options import AsJson, ConfigFiles, Overrides, print_json, print_text, read_config
from sam3lt_ray.errors import EXIT_FAILED


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(config: ConfigFiles = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check this machine, and with a config also its checkpoint, vocabulary, input and output."""
    from sam3lt_ray.doctor import examine

    loaded = read_config(config, overrides) if config or overrides else None
    findings = []
    for finding in examine(loaded):
        findings.append(finding)
        if not as_json:
            print_text(f"{'ok   ' if finding.ok else 'TO DO'}  {finding.subject:<11} {finding.text}")
    all_ok = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": all_ok, "findings": [asdict(finding) for finding in findings]})
    raise typer.Exit(0 if all_ok else EXIT_FAILED)

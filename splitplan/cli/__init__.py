"""``splitplan …`` on the command line: a file a command group. Each command imports what it needs when it runs."""

from splitplan.cli.app import main

__all__ = ["main"]

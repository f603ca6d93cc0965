"""``splitplan …`` on the command line: a file a command group. Each command imports what it needs when it runs."""

import sys


def main() -> None:
    """The console script."""
    try:
        # Here, so that Ctrl-C while it loads ends like any other.
        from splitplan.cli.app import app
        from splitplan.cli.terminal import make_safe

        make_safe()
        app()
    except KeyboardInterrupt:
        sys.stderr.write("splitplan: interrupted\n")
        sys.exit(130)

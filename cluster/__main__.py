"""`python -m cluster` is `raymill`: what a submitted job's entry point runs."""

import sys


def main() -> None:
    """The command line, stopped without a stack trace also while it is still being imported."""
    try:
        from cluster.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.exit(130)  # `interrupts.STOPPED`, which may not have been imported


if __name__ == "__main__":
    main()

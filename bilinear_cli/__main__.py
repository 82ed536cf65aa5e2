"""The command `bilinear`, and `python -m bilinear_cli`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C while its modules are imported ends it without a traceback."""
    try:
        from bilinear_cli import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()

"""Write docs/commands.md, the help of every command: `make docs`."""

from pathlib import Path

import click

from bilinear_cli.cli import cli

HEAD = """<!-- Written by `make docs` from the commands themselves. -->

# All commands

Every option may also stand in a file, `bilinear --config FILE`, in a table of its command
(`[extract]`, `image-size = 448`), or in the environment, `BILINEAR_EXTRACT_IMAGE_SIZE=448`; a flag
beats the environment, which beats the file.

The shell completes commands and options after one of

```sh
eval "$(_BILINEAR_COMPLETE=bash_source bilinear)"    # in ~/.bashrc
eval "$(_BILINEAR_COMPLETE=zsh_source bilinear)"     # in ~/.zshrc
_BILINEAR_COMPLETE=fish_source bilinear | source     # in ~/.config/fish/config.fish
```
"""


def page() -> str:
    """Return the page, Markdown."""
    whole = click.Context(cli, info_name="bilinear", **cli.context_settings)
    parts = [HEAD, "```", whole.get_help(), "```"]
    for name, command in sorted(cli.commands.items()):
        context = click.Context(command, info_name=name, parent=whole, **cli.context_settings)
        parts += [f"\n## {name}\n", "```", context.get_help(), "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")

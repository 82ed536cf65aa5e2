"""Write docs/commands.md, the help of every command: `make docs`."""

from pathlib import Path

import click

from bilinear_cli.cli import cli

HEAD = """<!-- Written by `make docs` from the commands themselves. -->

# All commands

A TOML file, `bilinear --config FILE`, can set every option, in a table with the name of the
command:

```toml
[extract]
image-size = 448
flip = true
pooling = ["max", "bilinear"]
```

An environment variable can set it, too, by the long name of the option. `1` sets a flag, and `0`
unsets it. Several values are separated by spaces, several paths as in `PATH`. An empty variable
counts as unset.

```sh
export BILINEAR_EXTRACT_IMAGE_SIZE=448 BILINEAR_EXTRACT_FLIP=1
export BILINEAR_EXTRACT_POOLING="max bilinear" BILINEAR_TRAIN_FEATURES=a.h5:b.h5
```

The command line overrides the environment, and the environment overrides the file. A value of a
wrong type, such as `image-size = "large"` or `flip = 1` in the file, is an error that names the key
or the variable. A variable that begins with `BILINEAR_` and is not known gives a warning.
`BILINEAR_CACHE` is the [cache folder](files.md#cache).

A leading `~` in a path is your home folder, on the command line, in the file, in variables and in
Python. `./~photos` is a file or folder of this name.

One of these lines makes the shell complete commands and options:

```sh
eval "$(_BILINEAR_COMPLETE=bash_source bilinear)"    # in ~/.bashrc
eval "$(_BILINEAR_COMPLETE=zsh_source bilinear)"     # in ~/.zshrc
_BILINEAR_COMPLETE=fish_source bilinear | source     # in ~/.config/fish/config.fish
```
"""


def page() -> str:
    """Return the page, Markdown."""
    parent = click.Context(cli, info_name="bilinear", **cli.context_settings)
    lines = [HEAD, "```", parent.get_help(), "```"]
    for name, command in sorted(cli.commands.items()):
        context = click.Context(command, info_name=name, parent=parent, **cli.context_settings)
        lines += [f"\n## {name}\n", "```", context.get_help(), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")

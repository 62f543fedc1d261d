"""`completion`: what makes a shell complete our commands and options."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cyclopts import App

Shell = Literal["bash", "zsh", "fish"]


def add_completion(app: "App") -> None:
    """Give the command line a command that knows all the others."""

    def completion(shell: Shell = "bash", /) -> None:
        """Print a script that makes a shell complete commands and options.

        bash: put `eval "$(neuronetz-gateway completion bash)"` into ~/.bashrc. zsh: write the script to
        `_neuronetz-gateway` in a directory of $fpath. fish: to ~/.config/fish/completions/neuronetz-gateway.fish.

        Example: `neuronetz-gateway completion bash > ~/.local/share/bash-completion/completions/neuronetz-gateway`

        Parameters
        ----------
        shell
            Which shell.
        """
        print(app.generate_completion(shell=shell), end="")  # nosec B604 - names a shell, starts none

    app.command(completion)

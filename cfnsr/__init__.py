"""The companion package to CFN-SR, a cross-modal fusion network for emotion recognition."""

import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec
from warnings import filterwarnings

# librosa, pooch and captum import tqdm.auto, which asks for ipywidgets in every notebook. The bars
# here are text, so that they show in the pipeline's output too.
filterwarnings("ignore", message="IProgress not found")

Arguments = ParamSpec("Arguments")


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was expected, what was found and what to do. Command lines print it
    alone and exit with status 1; anything else that is raised is a bug and keeps its traceback.
    """


def command_line(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Status 1 after an `InputError`, which is one line on stderr, or where nobody reads stdout."""

    @wraps(main)
    def status(*arguments: Arguments.args, **named: Arguments.kwargs) -> int:
        try:
            try:
                return main(*arguments, **named)
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # Else Python itself writes what is left, and fails, as it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1

    return status

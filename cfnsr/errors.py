"""The one exception that reaches a user as a single line instead of a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was expected, what was found and what to do. Command lines print it
    alone and exit with status 1; anything else that is raised is a bug and keeps its traceback.
    """

"""The one error meant for the person at the command line."""


class UserError(ValueError):
    """Something the person can put right: one line that names the key or file and the remedy.

    `train.py` prints the line alone, without a traceback, and exits with status 2.
    """

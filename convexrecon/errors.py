"""The exceptions whose message is all that a person needs."""


class InputError(ValueError):
    """Bad input, refused at the door.

    The message names the file or argument, says what was found and what was expected.
    The command line prints it alone, without a traceback, and exits with status 2.
    """


class RankLostError(RuntimeError):
    """Another process of a run on several ranks is gone.

    The command line prints the message alone and exits with status 1; the run can be continued.
    """

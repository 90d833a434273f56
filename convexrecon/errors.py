"""The one exception raised for input that a person can mend."""


class InputError(ValueError):
    """Bad input, refused at the door.

    The message names the file or argument, says what was found and what was expected.
    The command line prints it alone, without a traceback, and exits with status 2.
    """

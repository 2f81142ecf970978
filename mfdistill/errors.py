"""The one exception that users see as a single line."""


class UserError(Exception):
    """Bad input: the message names the file or option, says what is wrong and what to do; the
    command line prints it alone.
    """

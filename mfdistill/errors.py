"""The one exception that users see as a single line."""

MOST = 1000  # characters; a damaged file may hold a value of millions


class UserError(Exception):
    """Bad input: the message names the file or option, says what is wrong and what to do; the
    command line prints it alone. It is one line without control characters, whatever file or
    option it quotes.
    """

    def __init__(self, text: str = "") -> None:
        line = "".join(c if c.isprintable() else " " for c in text)
        # the beginning names the file, the end says what to do
        super().__init__(line if len(line) <= MOST else f"{line[:700]} ... {line[-250:]}")


class ToldElsewhere(UserError):
    """An error that another process of the command tells; this one ends with it."""

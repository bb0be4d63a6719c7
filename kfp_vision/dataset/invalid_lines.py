"""Why a line or the columns of an import file cannot be read."""


class InvalidLine(Exception):
    """A line is invalid; the message describes the fault."""


class InvalidColumns(Exception):
    """The columns of a table cannot be told.

    Attributes:
        found: what is there instead.
        remedy: what to do, as a sentence.
    """

    def __init__(self, found: str, remedy: str):
        super().__init__(found)
        self.found, self.remedy = found, remedy

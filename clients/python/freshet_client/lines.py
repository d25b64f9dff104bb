"""Bytes to lines."""


class LineSplitter:
    """Gives each line, without its `\\n`, once that has come; what has come of the next is kept until then."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        first, *others = data.split(b"\n")
        self._pieces.append(first)
        if not others:
            return []
        whole = b"".join(self._pieces)
        *lines, rest = others
        self._pieces = [rest]
        return [whole, *lines]

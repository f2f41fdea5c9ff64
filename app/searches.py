"""Which looks of the person detector also search, for people who are small or lie: a search takes as long as several looks."""


class Searches:
    """The first look, then every `every`th, and the longer nobody new joins those found the fewer, down to every `at_least`th."""

    def __init__(self, every: int, at_least: int) -> None:
        self._every, self._at_least = every, max(every, at_least)
        self.start()

    def start(self) -> None:
        """A new scene: its first look searches."""
        self._gap, self._left = self._every, 0

    @property
    def due(self) -> bool:
        """Whether the next look is to search."""
        return self._left <= 0

    def looked(self, searched: bool, somebody_new: bool, nobody: bool) -> None:
        """A look is done. nobody: it shows none at all, so that whoever comes is worth a search."""
        if somebody_new or nobody:
            self._gap = self._every
        elif searched:
            self._gap = min(2 * self._gap, self._at_least)
        self._left = (self._gap if searched else min(self._left, self._gap)) - 1

"""The game in a terminal, with Textual."""

from pathlib import Path

from textual.app import App, ComposeResult
from textual.events import Key
from textual.widgets import Static

from treadle.recipes.decode.game import NAMES, PLACES, Game
from treadle.recipes.decode.world import WAIT

LATELY = 20
"""Presses of which the share of right ones is shown."""


class GameApp(App[None]):
    """Shows a `Game`, hands it the keys, and keeps it at a path after every tenth press and at the end."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Static { padding: 0 2; }
    #wish { text-style: bold; padding: 1 2; }
    #said { height: 2; }
    """

    def __init__(self, game: Game, path: Path | None = None):
        super().__init__()
        self.game, self.path = game, path
        self.said = "The ship does not know your keys yet." if not game.known else "Welcome back, captain."

    def compose(self) -> ComposeResult:
        help_text = (
            "Choose one or two keys for each wish, press them, and keep to your choice."
            " The ship sees the place and the key, never the wish, and learns from the outcomes of its actions."
            " Escape: there is no second key. Ctrl+Q: quit."
        )
        for name, text in (("help", help_text), ("wish", ""), ("said", ""), ("score", ""), ("keys", "")):
            yield Static(text, id=name, markup=False)

    def on_mount(self) -> None:
        self._show()

    def on_key(self, event: Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.said = "The ship waits no longer." if self.game.waits else "The ship was not waiting."
            self.game.that_was_all()
        else:
            turn = self.game.press(event.key)
            if turn.command == WAIT:
                self.said = f"{event.key}: the ship waits for a second key."
            else:
                lucky = "that happens to be good too." if turn.good else "that is bad!"
                what = "that is good." if turn.right else lucky
                self.said = f"{event.key}: the ship does “{NAMES[turn.command]}”, and {what}"
        if len(self.game.right) % 10 == 0:
            self.keep()
        self._show()

    def keep(self) -> None:
        """Write the game to its file; a disk that is full does not end it."""
        if self.path is not None:
            try:
                self.game.save(self.path)
            except OSError as error:
                self.said += f" (The game cannot be saved: {error.strerror or error})"

    def on_unmount(self) -> None:
        self.keep()

    def _show(self) -> None:
        game = self.game
        self.query_one("#wish", Static).update(f"You are {PLACES[game.place]}, and want: {NAMES[game.wish]}")
        self.query_one("#said", Static).update(self.said)
        lately, presses = game.right[-LATELY:], len(game.right)
        score = f"{sum(lately)} of the last {len(lately)} presses correct, {presses} in all" if lately else ""
        self.query_one("#score", Static).update(score)
        lines = [f"{key:>12}  {meaning:<18} {share:4.0%}" for key, meaning, share in game.believed()]
        self.query_one("#keys", Static).update("\n".join(lines))

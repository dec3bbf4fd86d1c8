"""A model by its name: its versions, the sequences of its clients, and what becomes of them when it is replaced."""

import asyncio
import dataclasses
import logging
from pathlib import Path
from typing import Any

from treadle.errors import ModelFileError
from treadle.files import model_file
from treadle.running.recurrent import Recurrent
from treadle.serving.endings import Endings
from treadle.serving.keeper import Keeper
from treadle.serving.live_model import LiveModel
from treadle.serving.meanings import Meaning, meaning_of
from treadle.serving.options import Options
from treadle.serving.refusals import Kind, Refused
from treadle.serving.sequences import Key, Sequence
from treadle.serving.version import Version
from treadle.state import over_time
from treadle.training import Fitted, require_language_model
from treadle.training.word_model import has_vocabulary

logger = logging.getLogger("treadle.serving")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and what its numbers mean."""

    rnn: Any
    meaning: Meaning


def read_network(source: Any, name: str) -> Network:
    """A network to serve: a `treadle.Recurrent`, a `treadle.training.Fitted`, or the file of one.

    Raises:
        ModelFileError: it cannot be served, with the reason.
        OSError: the file cannot be read.
    """
    fitted, reads_words = source if isinstance(source, Fitted) else None, False
    if isinstance(source, (str, Path)):
        notes = model_file.read_notes(source)
        fitted, reads_words = Fitted.load(source) if "fitted" in notes else None, has_vocabulary(notes)
        rnn = over_time(model_file.load(source) if fitted is None else fitted.model)
        model_file.require_finite(source, rnn)
    else:
        rnn = over_time(source if fitted is None else fitted.model)
    is_text = False
    if isinstance(rnn, Recurrent):
        rnn.eval()
        is_text = not reads_words and rnn.input_size == () and rnn.output_size == 256 and _reads_bytes(rnn)
    return Network(rnn, meaning_of(name, rnn, fitted, is_text))


def _reads_bytes(rnn: Recurrent) -> bool:
    try:
        require_language_model(rnn)
    except ModelFileError:
        return False
    return True


class ServedModel:
    """A model by its name.

    Args:
        name: by which clients call it.
        source: what `read_network` takes; a file can be replaced while it is served.
        options: how it is scheduled, and what a new version does to sequences.
        keeper: what keeps their states; None if nothing does.
    """

    def __init__(self, name: str, source: Any, options: Options, keeper: Keeper | None = None):
        self.name, self.source, self.options, self.keeper = name, source, options, keeper
        self.sequences: dict[Key, Sequence] = {}
        self.endings = Endings()
        self.versions: dict[str, LiveModel] = {}
        self._stamp = self._present_stamp()
        self._made = 0
        self.latest = self._version(read_network(source, name))
        self.versions[self.latest.number] = self.latest

    def _version(self, network: Network) -> LiveModel:
        self._made += 1
        version = Version(
            self.name,
            str(self._made),
            network.rnn,
            network.meaning,
            self.options,
            self.sequences,
            self.endings,
        )
        return LiveModel(version, self.keeper)

    def start(self) -> None:
        """Begin to take turns, on the event loop that runs."""
        self.latest.start()

    def version(self, version: str | None = None) -> LiveModel:
        """A version; the latest where none is named.

        Raises:
            Refused: there is no such version.
        """
        found = self.versions.get(version) if version else self.latest
        if found is None:
            have = ", ".join(self.versions)
            raise Refused(Kind.NOT_FOUND, f"model {self.name!r} has no version {version!r:.40}, but {have}")
        return found

    def sequence(self, key: Key) -> Sequence:
        """A client's sequence: the one that there is, or one that has not begun."""
        found = self.sequences.get(key)
        if found is None:
            found = self.sequences[key] = Sequence(key, 0.0)
        return found

    def owner(self, sequence: Sequence) -> LiveModel:
        """The version at which a sequence is, or at which it would begin."""
        for live in self.versions.values() if len(self.versions) > 1 else ():
            if sequence in live.living:
                return live
        return self.latest

    # What time brings.

    def expire(self, now: float) -> None:
        """End the sequences that nobody has asked for a step for too long, and drop versions that nobody is at."""
        oldest = now - self.options.idle
        for sequence in list(self.sequences.values()):
            if not sequence.busy and sequence.slot is not None and sequence.used < oldest:
                self.owner(sequence).end(sequence, "expired")
        for version, live in list(self.versions.items()):
            if live is not self.latest and not live.living and not live.busy:
                del self.versions[version]
                live.close()

    def _present_stamp(self) -> Any:
        if isinstance(self.source, (str, Path)):
            try:
                found = Path(self.source).stat()
                return found.st_mtime_ns, found.st_ino, found.st_size
            except OSError:
                return None
        return None

    async def reload_if_changed(self) -> bool:
        """Serve a new version if the file is another one, and can be served; whether it was."""
        stamp = self._present_stamp()
        if stamp is None or stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            await self.replace(self.source)
        except (ModelFileError, OSError) as error:
            logger.error("model %s keeps version %s: %s", self.name, self.latest.number, error)
            return False
        return True

    async def replace(self, source: Any) -> None:
        """Serve another network under this name, as its next version; compiled in a thread, the others step on.

        Raises:
            ModelFileError: it cannot be served.
        """
        live = await asyncio.to_thread(lambda: self._version(read_network(source, self.name)))
        live.start()
        before, self.latest = self.latest, live
        self.versions[live.number] = live
        before.successor = live
        logger.info("model %s has version %s", self.name, live.number)
        if self.options.on_reload != "finish":
            reason = "reset" if self.options.on_reload == "reset" else "replaced"
            for sequence in list(before.living):
                if sequence.key is not None:
                    before.end(sequence, reason)

    async def flush(self) -> None:
        """Keep the states of all sequences that have taken steps since they were kept last."""
        if self.keeper is None:
            return
        for live in self.versions.values():
            changed = [one for one in live.living if one.key is not None and one.saved != one.position]
            for start in range(0, len(changed), 256):
                await self._flush_some(live, changed[start : start + 256])

    async def _flush_some(self, live: LiveModel, sequences: list[Sequence]) -> None:
        assert self.keeper is not None
        records = [(live.memory.record(one), one.stamp) for one in sequences if one.slot is not None]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then(found: Any) -> None:
            if isinstance(found, Exception):
                logger.error("model %s: %d sequences could not be kept: %s", self.name, len(records), found)
            done.set_result(None)

        self.keeper.put(records, then)
        await done

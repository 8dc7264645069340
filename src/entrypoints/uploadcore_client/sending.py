"""A round of a transfer: parts brought into the store, one thread per part in a bounded window, and what the store answered to each."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from uploadcore.errors import ChecksumMismatchError, ForbiddenError, StorageFullError, StoreUnavailableError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part
from uploadcore.states import PartInput, PartState
from uploadcore.upload import Strategy
from uploadcore_client.answers import Meaning, meaning_of
from uploadcore_client.api import Session
from uploadcore_client.checksums import to_checksum
from uploadcore_client.connection import Answer, Connection, Timeouts
from uploadcore_client.errors import UnexpectedAnswerError
from uploadcore_client.journal import Journal
from uploadcore_client.parts import PartTable
from uploadcore_client.progress import Meter, ProgressCallback
from uploadcore_client.retry import TransientError
from uploadcore_client.rounds import PartBody, Round
from uploadcore_client.signing import SignedUrls, batch_size
from uploadcore_client.source import SourceFile
from uploadcore_client.tracing import carried, span, tell_status
from uploadcore_client.wire import Upload

__all__ = ["BUFFER_SIZE", "REPORT_INTERVAL", "Sending", "Wiring"]

BUFFER_SIZE = 1024 * 1024
"""Bytes per sending thread, whatever the size of file and parts. Measured: 256 KiB costs a fifth more CPU, more gains nothing."""
SIGNINGS_PER_PART = 3
"""A store that refuses a fresh URL this often in a row does so for a reason that signing does not mend."""
REPORT_INTERVAL = 0.1
SYNC_INTERVAL = 5.0
"""Seconds between syncs of the journal: what a loss of power takes with it costs a reading of those parts."""
CUT_PATIENCE = 5.0
"""Seconds a cut transfer waits for its threads. They are daemons, and one that hangs in a name server's silence is left behind."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """How a client talks to stores.

    Attributes:
        parallel: Parts in flight at a time, and threads.
        timeouts: How long to wait.
        tls: For `https`; `None`: the system's trusted authorities.
    """

    parallel: int = 4
    timeouts: Timeouts = field(default_factory=Timeouts)
    tls: ssl.SSLContext | None = None


class Sending:
    """The parts of one upload on their way. Part of `Transfer`, which says which of them are sent, and when it is enough.

    Args:
        session: The service, with this call's cancellation and retry budget.
        upload: As initiated or found.
        source: The file.
        journal: What is left for another process.
        meter: Counts.
        wiring: How to talk to stores.
        whole: Gives the checksum to complete with, where it is not to be the CRC64NVME of the parts.
        is_new: Nobody can have sent any of it yet: the store need not be asked what it has.
    """

    def __init__(
        self,
        session: Session,
        upload: Upload,
        source: SourceFile,
        journal: Journal,
        *,
        meter: Meter,
        wiring: Wiring,
        whole: Callable[[], Checksum] | None = None,
        is_new: bool = False,
    ) -> None:
        self.session = session
        self.meter = meter
        self.urls = SignedUrls(lambda numbers: session.sign(upload.id, numbers), batch=batch_size(wiring.parallel))
        self._upload = upload
        self._source = source
        self._journal = journal
        self._wiring = wiring
        self._whole = whole
        self._is_new = is_new
        self._table = PartTable(upload.plan(), journal)
        self._unread: dict[int, Checksum | None] = {}
        self._trusted: set[int] = set()
        meter.begins(upload.id, self._table.count, interrupted=_interrupted(journal))

    def _forget(self, part_numbers: Iterable[int]) -> None:
        for number in list(part_numbers):
            if self._table.state(number) in {PartState.VERIFIED, PartState.UPLOADED}:
                self.meter.gone(self._table.length(number))
            self._table.plan_again(number)
            self._unread.pop(number, None)
            self._trusted.discard(number)

    # --- a round ----------------------------------------------------------------------------------------------------

    def _send(self, part_numbers: list[int], report: ProgressCallback) -> None:
        """Send these parts. When this returns or raises, none of them is in flight, unless the transfer was cut."""
        stage = Round(part_numbers)
        self.urls.plan(number for number in part_numbers if number not in self._unread)
        threads = [
            threading.Thread(target=carried(self._work), args=(stage,), name=f"uploadcore-part-{index}", daemon=True)
            for index in range(min(self._wiring.parallel, len(part_numbers)))
        ]
        stage.threads.update(threads)
        try:
            for thread in threads:
                thread.start()
            self._watch(stage, report)
        except BaseException:
            self.session.cancellation.cancel()
            stage.stop()
            stage.leave(
                *(thread for thread in threads if thread.ident is None)
            )  # not begun: there is no room, or Ctrl-C came
            stage.is_over.wait(CUT_PATIENCE)
            with suppress(Exception):  # it may be the callback that ended it
                report(self.meter.reading())
            raise
        finally:
            self._journal.sync()
        if stage.error is not None:
            raise stage.error

    def _watch(self, stage: Round, report: ProgressCallback) -> None:
        """Report until the round is over. In the thread that called: a callback needs no locks, and Ctrl-C arrives here."""
        synced_at = time.monotonic()
        while not stage.is_over.wait(REPORT_INTERVAL):
            report(self.meter.reading())
            self.session.cancellation.check()
            if time.monotonic() - synced_at > SYNC_INTERVAL:
                self._journal.sync()
                synced_at = time.monotonic()

    def _work(self, stage: Round) -> None:
        """One sending thread: its own buffer, its own connection, part after part."""
        connection = Connection(self.session.cancellation, self._wiring.timeouts, self._wiring.tls)
        try:
            view = memoryview(bytearray(BUFFER_SIZE))
            while (number := stage.take()) is not None:
                if number in self._unread:
                    self._read_back(number, view, stage)
                if self._table.state(number) is not PartState.VERIFIED:
                    self._send_part(number, view, connection, stage)
        except BaseException as exc:  # noqa: BLE001 - raised again by the thread that called
            stage.stop(exc)
        finally:
            connection.close()
            stage.leave(threading.current_thread())

    def _read_back(self, number: int, view: memoryview, stage: Round) -> None:
        """The store has this part, and nobody knows its CRC any more: read it from the file, and compare where the store tells one."""
        body = self._body(number, view, stage)
        for _ in body.pieces():
            pass
        listed = self._unread[number]
        if listed is not None and listed.algorithm is ChecksumAlgorithm.CRC64NVME and listed != to_checksum(body.crc):
            self._forget([number])
            return
        self._table.verify(number, body.crc)
        self._unread.pop(number)

    def _send_part(self, number: int, view: memoryview, connection: Connection, stage: Round) -> None:
        part = self._table.part(number)
        tries = signings = 0
        told: dict[str, str | int] = {"uploadcore.upload_id": self._upload.id, "uploadcore.part_number": number}

        def attempt() -> None:
            nonlocal tries, signings
            tries += 1
            signed = self.urls.get(number)
            if self._table.state(number) is PartState.PLANNED:
                self._table.move(number, PartInput.SIGNED)
            self._table.move(number, PartInput.SENT)
            self.meter.starts(number, part.length or 0, first_try=tries == 1)
            body = self._body(number, view, stage)
            try:
                with span("uploadcore part", told, is_call=True):
                    answer = connection.put(signed.url, _headers(signed.headers, part), body)
                    tell_status(answer.status)
            except BaseException:
                self._back(number, PartInput.INTERRUPTED)
                raise
            meaning = meaning_of(answer)
            if meaning is Meaning.STORED:
                self._stored(number, body, answer)
                return
            if meaning is Meaning.EXISTS and self._upload.strategy == Strategy.SINGLE:
                self._stands_already(number, view, stage)
                return
            signings += meaning is Meaning.SIGN_AGAIN
            self._not_stored(number, meaning, answer, may_sign=signings < SIGNINGS_PER_PART)
            if meaning is Meaning.LOST:
                stage.stop()  # completing finds out what the store has, and reopens what it lost

        self.session.retrying(attempt)

    def _stored(self, number: int, body: PartBody, answer: Answer) -> None:
        """The store says it has the part. Believe it if the bytes it has are those we read from a file that did not change."""
        length = self._table.length(number)
        confirmed = answer.headers.get("x-amz-checksum-crc64nvme")
        if body.sent != length:
            self._back(number, PartInput.INTERRUPTED)
            raise TransientError(StoreUnavailableError(f"the store answered before it had all of part {number}"))
        self._table.move(number, PartInput.STORED)
        if confirmed is not None and confirmed != to_checksum(body.crc).value:
            self._back(number, PartInput.MISMATCHED, PartInput.GONE)
            raise TransientError(ChecksumMismatchError(f"part {number} did not arrive as it was sent"))
        self._source.check_unchanged()
        self._table.verify(number, body.crc)
        self.meter.stored(number, length)
        self.urls.drop(number)

    def _stands_already(self, number: int, view: memoryview, stage: Round) -> None:
        """A single PUT found an object in its place: an earlier try of ours whose answer was lost. Completing tells whether it is."""
        self._table.move(number, PartInput.STORED)
        self.meter.stored(number, self._table.length(number))
        self._unread[number] = None
        self._read_back(number, view, stage)

    def _not_stored(self, number: int, meaning: Meaning, answer: Answer, *, may_sign: bool) -> None:
        """Move the part on from an answer that is no success.

        Raises:
            TransientError: Send it again.
            UploadCoreError: Sending it again is of no use.
        """
        said = f"{answer.status} {answer.code}".strip()
        if meaning is Meaning.SIGN_AGAIN:
            self._back(number, PartInput.URL_EXPIRED, PartInput.GONE)
            if answer.code == "ExpiredToken":
                self.urls.drop_all()  # these credentials signed all of them
            self.urls.drop(number)
            refused = ForbiddenError(
                f"the store refuses the signed URL of part {number} ({said})", upload_id=self._upload.id
            )
            if not may_sign:
                raise refused
            raise TransientError(refused, retry_after=0)
        if meaning is Meaning.DAMAGED:
            self._back(number, PartInput.MISMATCHED, PartInput.GONE)
            raise TransientError(ChecksumMismatchError(f"part {number} did not arrive as it was sent ({said})"))
        self._back(number, PartInput.INTERRUPTED)
        if meaning is Meaning.LOST:
            self._table.move(number, PartInput.GONE)
        elif meaning is Meaning.FULL:
            raise StorageFullError(
                "the store has no room left; what has arrived stays there", upload_id=self._upload.id
            )
        elif meaning is Meaning.TRY_AGAIN:
            busy = StoreUnavailableError(f"the store did not take part {number} ({said})", upload_id=self._upload.id)
            raise TransientError(busy, retry_after=answer.retry_after)
        else:
            raise UnexpectedAnswerError(
                f"the store refuses part {number} ({said})",
                status=answer.status,
                answered_code=answer.code,
                upload_id=self._upload.id,
            )

    def _back(self, number: int, *happened: PartInput) -> None:
        """What was sent of a part counts for nothing."""
        self.meter.breaks_off(number)
        self._table.move(number, *happened)

    def _body(self, number: int, view: memoryview, stage: Round) -> PartBody:
        return PartBody(
            self._source,
            self._table.part(number),
            view,
            meter=self.meter,
            stage=stage,
            cancellation=self.session.cancellation,
        )

    def _read(self, number: int) -> int:
        """The CRC64NVME of a part, from the file."""
        body = self._body(number, memoryview(bytearray(BUFFER_SIZE)), Round(()))
        for _ in body.pieces():
            pass
        return body.crc


def _headers(signed: Mapping[str, str], part: Part) -> dict[str, str]:
    """The signed headers, with the length that keeps urllib3 from chunked encoding, which S3 does not take."""
    headers = {name: value for name, value in signed.items() if name.lower() != "content-length"}
    return {**headers, "Content-Length": str(part.length or 0)}


def _interrupted(journal: Journal) -> set[int]:
    return {number for number, state in journal.states.items() if state is PartState.SENDING}

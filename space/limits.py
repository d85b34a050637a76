"""Limits of the server: request sizes, queued jobs, and memory and files of sessions."""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nullface_pipeline.runs.lock import hold_folder, is_held


MAX_FILE_BYTES = 30 * 10**6

# The preview with its painted mask is the largest input besides uploads.
MAX_BODY_BYTES = 8 * 2**20

# Queued and running jobs per session, and per IP address, which several people may share.
MAX_JOBS_PER_SESSION = 2
MAX_JOBS_PER_ADDRESS = 6

# Concurrency group of the events that run the pipeline, one at a time.
PIPELINE = "pipeline"

# Memory for the photos, clips and results of all sessions.
MAX_HELD_BYTES = 2**30

# Seconds without use after which a session is deleted.
FORGET_AFTER = 15 * 60

# Seconds after which unread uploads are deleted, for example after a broken connection.
DELETE_AFTER = 60

FOLDER_PREFIX = "nullface-space-"


@contextlib.contextmanager
def process_folder() -> Iterator[Path]:
    """Context with a temporary folder. Also deletes the folders of killed servers."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if not is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True) as name:
        with hold_folder(Path(name)):
            yield Path(name)


class BodyLimit:
    """ASGI middleware that refuses large requests, and files at other addresses than the upload's.

    Gradio only limits the size of each file of an upload.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        problem = self._problem(scope) if scope["type"] == "http" and scope["method"] != "GET" else None
        if problem is None:
            await self.app(scope, receive, send)
            return
        # Read and discard the body, because most clients read the response only afterwards.
        dropped = 0
        while dropped <= 2 * MAX_FILE_BYTES:
            message = await receive()
            dropped += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        status, detail = problem
        body = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _problem(self, scope: Any) -> tuple[int, str] | None:
        """Status and message of a refused request, or None."""
        headers = dict(scope["headers"])
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        # The body of an upload has some bytes besides the file.
        limit = MAX_FILE_BYTES + 2**16 if is_upload else MAX_BODY_BYTES
        if b"transfer-encoding" in headers:
            return 411, "The request has no content length."
        if int(headers.get(b"content-length", 0)) > limit:
            return 413, f"The request exceeds the maximum allowed size of {limit} bytes."
        if not is_upload and headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
            return 415, "Files can only be sent to the upload address."
        return None


def limit_queue(page: Any) -> None:
    """Make the queue refuse URLs in place of uploads, and more jobs than a visitor may have."""
    push = page._queue.push

    async def limited_push(body: Any, request: Any, username: str | None) -> tuple[bool, Any, str]:
        if has_file_url(body.data):
            return False, "URLs are not accepted. Upload the file.", "error"
        function = page.fns.get(body.fn_index)
        if function is not None and function.concurrency_id == PIPELINE:
            jobs = [event for event in pending_events(page) if event.concurrency_id == PIPELINE]
            address = request.client.host if request.client else None
            if (
                sum(job.session_hash == body.session_hash for job in jobs) >= MAX_JOBS_PER_SESSION
                or sum(_address(job) == address for job in jobs) >= MAX_JOBS_PER_ADDRESS
            ):
                return False, "You already have jobs in the queue. Wait until one of them is finished.", "error"
        return await push(body, request, username)

    page._queue.push = limited_push


def has_file_url(value: Any) -> bool:
    """Whether a request's data contains a file URL, which Gradio would download without a limit."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and path.lower().startswith(("http://", "https://")):
                return True
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return False


def pending_events(page: Any) -> list[Any]:
    """Queued and running events of Gradio."""
    queue = page._queue
    waiting = [event for events in queue.event_queue_per_concurrency_id.values() for event in events.queue]
    return waiting + [event for events in queue.active_jobs if events for event in events]


def _address(event: Any) -> str | None:
    return event.request.client.host if event.request.client else None


async def forget(page: Any, visitor: str | None) -> None:
    """Delete the state, page contents, jobs and unread results of a session.

    Gradio would keep them for an hour. Runs in the event loop of the server, as the queue does.
    """
    page.state_holder.session_data.pop(visitor, None)
    page.state_holder.time_last_used.pop(visitor, None)
    await page._queue.clean_events(session_hash=visitor)
    page._queue.pending_event_ids_session.pop(visitor, None)
    messages = page._queue.pending_messages_per_session.get(visitor)
    # Emptied, not removed, because an open connection may still read it.
    while messages is not None and not messages.empty():
        messages.get_nowait()


async def forget_idle(page: Any) -> None:
    """Delete sessions that were not used for `FORGET_AFTER` seconds. A job in the queue is use."""
    now = datetime.now()
    last_used = page.state_holder.time_last_used
    busy = {event.session_hash for event in pending_events(page)}
    last_used.update({visitor: now for visitor in busy if visitor in last_used})
    uncollected = {visitor for visitor, messages in _messages(page).items() if not messages.empty()}
    for visitor in {*last_used, *uncollected} - busy:
        if last_used.get(visitor, datetime.min) < now - timedelta(seconds=FORGET_AFTER):
            await forget(page, visitor)


async def forget_over_budget(page: Any) -> None:
    """Delete the least recently used sessions until the others hold at most `MAX_HELD_BYTES`."""
    last_used = page.state_holder.time_last_used
    held = {visitor: held_bytes(page, visitor) for visitor in {*last_used, *_messages(page)}}
    busy = {event.session_hash for event in pending_events(page)}
    for visitor in sorted(held.keys() - busy, key=lambda visitor: last_used.get(visitor, datetime.min)):
        if sum(held.values()) <= MAX_HELD_BYTES:
            return
        await forget(page, visitor)
        del held[visitor]


def held_bytes(page: Any, visitor: str) -> int:
    """Memory in bytes of a session's photo, clip, results and unread messages."""
    values: list[Any] = []
    session = page.state_holder.session_data.get(visitor)
    if session is not None:
        values += session.state_data.values()
        values += [component.get("props", {}).get("value") for component in session.components]
    messages = _messages(page).get(visitor)
    values += [] if messages is None else [getattr(message, "output", None) for message in messages._queue]
    return sum({id(part): size for value in values for part, size in _parts(value)}.values())


def _parts(value: Any) -> Iterator[tuple[Any, int]]:
    """Yield the large objects in a value, and their size in bytes. Text is ASCII (base64)."""
    if isinstance(value, (str, bytes)):
        yield value, len(value)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _parts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _parts(part)
    elif hasattr(value, "nbytes"):
        yield value, int(value.nbytes)


def _messages(page: Any) -> dict[str, Any]:
    return page._queue.pending_messages_per_session


def delete_old_files(folder: Path) -> None:
    """Delete files and empty folders in a folder that did not change for `DELETE_AFTER` seconds."""
    limit = time.time() - DELETE_AFTER
    for root, folders, files in os.walk(folder, topdown=False):
        for name in files + folders:
            path = Path(root, name)
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    path.rmdir() if path.is_dir() else path.unlink()

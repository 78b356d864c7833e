"""/logs/: lists, files, and what must not be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiphys.kubelet.server.files import LogFiles
from tiphys.kubelet.server.http import Response


async def body(answer: Response) -> str:
    if answer.stream is not None:
        return b"".join([data async for data in answer.stream]).decode()
    return answer.body.decode()


@pytest.fixture
def files(tmp_path: Path) -> LogFiles:
    logs = tmp_path / "pod-logs"
    (logs / "d_p_u" / "c").mkdir(parents=True)
    (logs / "d_p_u" / "c" / "0.log").write_text("line\n")
    (logs / "d_p_u" / "c" / "a&b.log").write_text("")
    (tmp_path / "secret").write_text("secret")
    (logs / "out").symlink_to(tmp_path / "secret")
    (logs / "in.log").symlink_to(logs / "d_p_u" / "c" / "0.log")
    return LogFiles(logs)


async def test_directories_are_lists_of_links(files: LogFiles) -> None:
    assert '<a href="pods/">pods/</a>\n' in await body(await files.answer("/logs/", []))
    listed = await files.answer("/logs/pods/d_p_u/c/", ["pods", "d_p_u", "c"])
    assert listed.content_type.startswith("text/html")
    assert '<a href="0.log">0.log</a>\n<a href="a%26b.log">a&amp;b.log</a>\n' in await body(listed)
    moved = await files.answer("/logs/pods/d_p_u", ["pods", "d_p_u"])
    assert (moved.status, moved.headers["Location"]) == (301, "d_p_u/")


@pytest.mark.parametrize("name", [["d_p_u", "c", "0.log"], ["in.log"]])
async def test_files_are_text(files: LogFiles, name: list[str]) -> None:
    answer = await files.answer("/logs/pods/" + "/".join(name), ["pods", *name])
    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    assert await body(answer) == "line\n"


@pytest.mark.parametrize(
    "name", [["pods", "out"], ["pods", "..", "secret"], ["secret"], ["pods", "no"], ["pods", "\0"]]
)
async def test_nothing_outside_is_shown(files: LogFiles, name: list[str]) -> None:
    assert (await files.answer("/logs/" + "/".join(name), name)).status == 404

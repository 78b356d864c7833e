"""`image build`: an image from a Dockerfile, a directory and images of the store, without a daemon.

Each stage is an overlay of its base image's layers under one new layer; instructions work in it as the container's
root, so that links of the base image (`/lib -> usr/lib`) lead where they would. The new layer is what overlayfs
collected. RUN uses the OCI runtime on the node's network.
"""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
import secrets
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from tiphys.runtime import linux
from tiphys.runtime.cgroups import Cgroups
from tiphys.runtime.filesystems import mount_overlay
from tiphys.runtime.images import layers
from tiphys.runtime.images.assemble import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE
from tiphys.runtime.images.dockerfile import DockerfileError, Instruction, expand, ignore_rules, ignored, pairs, parse
from tiphys.runtime.images.reference import InvalidReference
from tiphys.runtime.images.reference import parse as parse_reference
from tiphys.runtime.images.store import Image, ImageStore, layer_names
from tiphys.runtime.images.trees import NotADirectory, copy_one, directory_digest, give_owner, resolve_directory
from tiphys.runtime.linux import architecture
from tiphys.runtime.spec import users
from tiphys.runtime.spec.capabilities import DEFAULT, NAMES
from tiphys.runtime.spec.mounts import default_mounts

_ARGUMENTS_BEFORE_FROM: Final = frozenset({"FROM", "ARG"})


class BuildError(Exception):
    """The image cannot be built; the text names the line."""


@dataclass(slots=True)
class _Stage:
    """A stage being built."""

    base: tuple[str, ...]  # layer names, lowest first
    diff_ids: list[str]
    config: dict[str, Any]
    merged: Path
    upper: Path
    history: list[dict[str, Any]] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    size: int = 0

    def values(self) -> dict[str, str]:
        """What `$name` means: build arguments under the environment."""
        environment = dict(entry.split("=", 1) for entry in self.config.get("Env") or [])
        return {**self.arguments, **environment}


def build(
    store: ImageStore,
    context: Path,
    names: Sequence[str],
    *,
    dockerfile: Path | None = None,
    arguments: Mapping[str, str] | None = None,
    target: str = "",
    oci_runtime: str = "runc",
    say: Callable[[str], None] = lambda text: None,
    fetch: Callable[[str], Image] | None = None,
) -> Image:
    """Build the image and give it `names`.

    `say` hears each instruction, each line a command writes and each warning; `fetch` gets an image that is named
    but not in the store (and raises BuildError when it cannot).

    Raises BuildError or DockerfileError, and leaves nothing behind then.
    """
    references = [parse_reference(name) for name in names]
    path = dockerfile or context / "Dockerfile"
    try:
        instructions = parse(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise BuildError(f"failed to read dockerfile: open {path}: {reason}") from error
    with tempfile.TemporaryDirectory(prefix="tiphys-build-", dir=store.root / "ingest") as work, store.adding():
        builder = _Builder(
            store, context.resolve(), Path(work), dict(arguments or {}), oci_runtime, say, fetch or _not_here
        )
        try:
            stage = builder.run(instructions, target)
            builder.unmount()
            return builder.commit(stage, [f"{x.name}:{x.tag}" for x in references])
        finally:
            builder.unmount()


def _not_here(name: str) -> Image:
    raise BuildError(f"{parse_reference(name)}: not found: import or pull it first")


class _Builder:
    def __init__(
        self,
        store: ImageStore,
        context: Path,
        work: Path,
        arguments: dict[str, str],
        oci_runtime: str,
        say: Callable[[str], None],
        fetch: Callable[[str], Image],
    ) -> None:
        self._store = store
        self._context = context
        self._work = work
        self._given = arguments
        self._oci_runtime = oci_runtime
        self._say = say
        self._fetch = fetch
        self._stages: dict[str, _Stage] = {}
        self._mounts: list[Path] = []
        ignore = context / ".dockerignore"
        self._ignore = ignore_rules(ignore.read_text()) if ignore.is_file() else []

    def unmount(self) -> None:
        """Take the overlays away. Idempotent."""
        while self._mounts:
            linux.unmount(self._mounts.pop())

    # ---- the story

    def run(self, instructions: Sequence[Instruction], target: str) -> _Stage:
        """Carry out the instructions; the stage called `target`, or the last."""
        stage: _Stage | None = None
        outer: dict[str, str] = {}
        for instruction in instructions:
            if instruction.name == "FROM":
                if stage is not None and target and self._stages.get(target.lower()) is stage:
                    return stage
                with _located(instruction):
                    stage = self._from(instruction, outer)
            elif stage is None:
                if instruction.name not in _ARGUMENTS_BEFORE_FROM:
                    raise BuildError(f"line {instruction.line}: no build stage in current context")
                self._argument(instruction, outer, outer)
                continue
            self._say(f"{instruction.name} {instruction.text}")
            if instruction.name != "FROM":
                with _located(instruction):
                    self._apply(stage, instruction, outer)
        if stage is None or (target and self._stages.get(target.lower()) is not stage):
            raise BuildError(f"target stage {target!r} could not be found")
        return stage

    def _from(self, instruction: Instruction, outer: Mapping[str, str]) -> _Stage:
        words = expand(instruction.text, outer).split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise DockerfileError(f"line {instruction.line}: FROM requires either one or three arguments")
        stage = self._new_stage(words[0])
        self._stages[str(len({id(found) for found in self._stages.values()}))] = stage
        if len(words) == 3:
            self._stages[words[2].lower()] = stage
        return stage

    def _new_stage(self, base: str) -> _Stage:
        directory = self._work / secrets.token_hex(4)
        upper, merged = directory / "upper", directory / "merged"
        upper.mkdir(parents=True)
        earlier = self._stages.get(base.lower())
        if earlier is not None:
            # The earlier stage has no layer of its own yet: begin with a copy of what it has written.
            lower = [self._store.layer(name) for name in earlier.base]
            config = msgspec.json.decode(msgspec.json.encode(earlier.config))
            stage = _Stage(earlier.base, list(earlier.diff_ids), config, merged, upper, list(earlier.history))
            subprocess.run(["cp", "--archive", f"{earlier.upper}/.", str(upper)], check=True)
        elif base == "scratch":
            lower = []
            stage = _Stage((), [], {}, merged, upper)
        else:
            image = self._store.find(base) or self._fetch(base)
            document = msgspec.json.decode(self._store.blob(image.id).read_bytes())
            lower = [self._store.layer(name) for name in image.layers]
            stage = _Stage(
                image.layers,
                list(document["rootfs"]["diff_ids"]),
                dict(document.get("config") or {}),
                merged,
                upper,
                list(document.get("history") or []),
                size=image.size,
            )
        if not lower:
            empty = directory / "empty"
            empty.mkdir()
            lower = [empty]
        mount_overlay(merged, lower, upper=upper, work=directory / "work")
        self._mounts.append(merged)
        return stage

    def _apply(self, stage: _Stage, instruction: Instruction, outer: Mapping[str, str]) -> None:
        name, config = instruction.name, stage.config
        values = stage.values()
        text = expand(instruction.text, values)
        expanded = Instruction(name, instruction.flags, text, instruction.line)
        if name in ("COPY", "ADD"):
            self._copy(stage, expanded, values)
        elif name == "RUN":
            self._run(stage, instruction)
        elif name == "ENV":
            environment = dict(entry.split("=", 1) for entry in config.get("Env") or [])
            environment.update(pairs(expanded))
            config["Env"] = [f"{key}={value}" for key, value in environment.items()]
        elif name == "ARG":
            self._argument(expanded, stage.arguments, outer)
        elif name == "LABEL":
            config["Labels"] = {**(config.get("Labels") or {}), **dict(pairs(expanded))}
        elif name == "WORKDIR":
            config["WorkingDir"] = posixpath.normpath(posixpath.join(config.get("WorkingDir") or "/", text))
            resolve_directory(stage.merged, config["WorkingDir"], make=True)
        elif name == "USER":
            config["User"] = text
        elif name in ("CMD", "ENTRYPOINT"):
            array = instruction.array()
            config["Cmd" if name == "CMD" else "Entrypoint"] = (
                array if array is not None else [*stage.shell, instruction.text]
            )
            if name == "ENTRYPOINT":
                config.pop("Cmd", None)
        elif name == "EXPOSE":
            ports: dict[str, Any] = {word if "/" in word else f"{word}/tcp": {} for word in expanded.words()}
            config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **ports}
        elif name == "VOLUME":
            config["Volumes"] = {**(config.get("Volumes") or {}), **{word: {} for word in expanded.words()}}
        elif name == "STOPSIGNAL":
            config["StopSignal"] = text
        elif name == "SHELL":
            stage.shell = instruction.words()
        else:  # HEALTHCHECK, ONBUILD, MAINTAINER: Kubernetes has no use for them
            self._say(f"warning: line {instruction.line}: {name} is ignored")
            return
        stage.history.append(
            {
                "created": _moment(),
                "created_by": f"{name} {instruction.text}",
                **({} if name in ("COPY", "ADD", "RUN", "WORKDIR") else {"empty_layer": True}),
            }
        )

    def _argument(self, instruction: Instruction, into: dict[str, str], outer: Mapping[str, str]) -> None:
        for word in instruction.words():
            key, equals, default = word.partition("=")
            value = self._given.get(key, default if equals else outer.get(key, ""))
            if value or equals or key in self._given:
                into[key] = expand(value, into)

    # ---- COPY and ADD

    def _copy(self, stage: _Stage, instruction: Instruction, values: Mapping[str, str]) -> None:
        words = instruction.words()
        if len(words) < 2:
            raise DockerfileError(f"line {instruction.line}: {instruction.name} requires at least two arguments")
        *patterns, destination = words
        flags = {key: expand(value, values) for key, value in instruction.flags.items()}
        unknown = set(flags) - {"from", "chown", "chmod", "link", "parents"}
        if unknown:
            raise DockerfileError(f"line {instruction.line}: unknown flag: {', '.join(sorted(unknown))}")
        with self._source_root(flags.get("from", ""), instruction) as root:
            sources = [found for pattern in patterns for found in self._find(root, pattern, instruction)]
            owner = self._owner(stage, flags.get("chown", ""))
            mode = int(flags["chmod"], 8) if "chmod" in flags else None
            place = posixpath.join(stage.config.get("WorkingDir") or "/", destination)
            if len(sources) > 1 and not place.endswith("/"):
                raise BuildError(
                    f"line {instruction.line}: when using {instruction.name} with more than one source file, "
                    "the destination must be a directory and end with a /"
                )
            filtered = root == self._context
            for source in sources:
                unpacks = instruction.name == "ADD" and source.is_file() and tarfile.is_tarfile(source)
                if unpacks:
                    directory = resolve_directory(stage.merged, place, make=True)
                    with layers.decompressed(source) as stream:
                        layers.extract(stream, directory)
                else:
                    self._place(stage, root, source, place, owner, mode, filtered=filtered)

    @contextlib.contextmanager
    def _source_root(self, name: str, instruction: Instruction) -> Iterator[Path]:
        if not name:
            yield self._context
        elif name.lower() in self._stages:
            yield self._stages[name.lower()].merged
        else:
            yield self._new_stage(name).merged

    def _find(self, root: Path, pattern: str, instruction: Instruction) -> list[Path]:
        if instruction.name == "ADD" and pattern.startswith(("http://", "https://", "git@")):
            raise BuildError(f"line {instruction.line}: ADD of {pattern}: a build reaches no network of its own")
        relative = posixpath.normpath(posixpath.join("/", pattern)).lstrip("/")
        matches = sorted(glob.glob(relative, root_dir=root, include_hidden=True)) if relative else ["."]
        found = [root / match for match in matches if not self._left_out(root, match)]
        if not found:
            raise BuildError(f'line {instruction.line}: failed to compute cache key: "/{relative}": not found')
        for path in found:
            holder = path if path == root else path.parent
            if not holder.resolve().is_relative_to(root.resolve()):
                raise BuildError(f"line {instruction.line}: {pattern!r} leads out of the build context")
        return found

    def _left_out(self, root: Path, relative: str) -> bool:
        return root == self._context and ignored(relative, self._ignore)

    def _place(
        self,
        stage: _Stage,
        root: Path,
        source: Path,
        place: str,
        owner: tuple[int, int],
        mode: int | None,
        *,
        filtered: bool,
    ) -> None:
        """Copy a file, or what is in a directory, to `place` in the stage."""
        if not source.is_dir() or source.is_symlink():
            target = posixpath.join(place, source.name) if place.endswith("/") else place
            directory = resolve_directory(stage.merged, posixpath.dirname(target) or "/", make=True)
            final = directory / posixpath.basename(target)
            if final.is_dir() and not final.is_symlink():
                final = final / source.name
            copy_one(source, final, owner, mode)
            return
        resolve_directory(stage.merged, place, make=True)
        for base, directories, files in os.walk(source):
            inside = Path(base).relative_to(source)
            kept = []
            for name in directories:
                relative = str(Path(base, name).relative_to(root))
                if filtered and ignored(relative, self._ignore):
                    continue
                kept.append(name)
            directories[:] = [name for name in kept if not Path(base, name).is_symlink()]
            target_directory = resolve_directory(stage.merged, posixpath.join(place, str(inside)), make=True)
            if str(inside) != ".":
                give_owner(target_directory, Path(base), owner, mode)
            for name in [*files, *(name for name in kept if Path(base, name).is_symlink())]:
                path = Path(base, name)
                if not (filtered and ignored(str(path.relative_to(root)), self._ignore)):
                    copy_one(path, target_directory / name, owner, mode)

    def _owner(self, stage: _Stage, text: str) -> tuple[int, int]:
        if not text:
            return 0, 0
        fd = os.open(stage.merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = users.resolve(
                text,
                run_as_group=None,
                supplemental=(),
                merge_image_groups=False,
                passwd=users.passwd_entries(users.read_lines(fd, "/etc/passwd")),
                group=users.group_entries(users.read_lines(fd, "/etc/group")),
            )
        except users.UserNotFound as error:
            raise BuildError(str(error)) from error
        finally:
            os.close(fd)
        gid = found.gid if ":" in text or not text.isdigit() else int(text)
        return found.uid, gid

    # ---- RUN

    def _run(self, stage: _Stage, instruction: Instruction) -> None:
        if instruction.flags:
            raise DockerfileError(f"line {instruction.line}: RUN --{next(iter(instruction.flags))} is not supported")
        argv = instruction.array() or [*stage.shell, instruction.text]
        bundle = Path(tempfile.mkdtemp(dir=self._work))
        cgroup = f"/tiphys-build-{bundle.name}"
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **stage.values()}
        user = self._run_user(stage)
        held = linux.effective_capabilities()
        from_names = [name for number, name in enumerate(NAMES) if number in held and name in DEFAULT]
        spec = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
                "args": argv,
                "env": [f"{key}={value}" for key, value in environment.items()],
                "cwd": stage.config.get("WorkingDir") or "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), from_names),
            },
            "root": {"path": str(stage.merged)},
            "mounts": [
                *default_mounts(privileged=False),
                {
                    "destination": "/etc/resolv.conf",
                    "type": "bind",
                    "source": "/etc/resolv.conf",
                    "options": ["rbind", "ro"],
                },
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                "cgroupsPath": cgroup,
            },
        }
        (bundle / "config.json").write_bytes(msgspec.json.encode(spec))
        command = [self._oci_runtime, f"--root={bundle / 'oci'}", "run", "--bundle", str(bundle), bundle.name]
        try:
            status, last = self._stream(command)
        except FileNotFoundError as error:
            raise BuildError(f"RUN needs {self._oci_runtime}, which is not installed on this machine") from error
        finally:
            Cgroups().remove(cgroup)
        if status != 0:
            raise BuildError(
                f'process "{" ".join(argv)}" did not complete successfully: exit code: {status}{last and f": {last}"}'
            )

    def _stream(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a command to its end, saying what it writes as it comes: its exit status and its last line."""
        last = ""
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
        ) as running:
            for line in running.stdout or ():
                last = line.rstrip()
                self._say(last)
        return running.returncode, last

    def _run_user(self, stage: _Stage) -> users.User:
        fd = os.open(stage.merged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return users.resolve(
                stage.config.get("User") or "",
                run_as_group=None,
                supplemental=(),
                merge_image_groups=True,
                passwd=users.passwd_entries(users.read_lines(fd, "/etc/passwd")),
                group=users.group_entries(users.read_lines(fd, "/etc/group")),
            )
        except users.UserNotFound as error:
            raise BuildError(str(error)) from error
        finally:
            os.close(fd)

    # ---- the result

    def commit(self, stage: _Stage, tags: Sequence[str]) -> Image:
        """Enter the stage as an image."""
        diff_ids = list(stage.diff_ids)
        digest, size = directory_digest(stage.upper)
        changed = any(stage.upper.iterdir())
        if changed or not diff_ids:
            diff_ids.append(digest)
        names = layer_names(diff_ids)
        if len(names) > len(stage.base):

            def fill(directory: Path) -> None:
                directory.rmdir()
                shutil.move(stage.upper, directory)

            self._store.make_layer(names[-1], fill)
        document = {
            "created": _moment(),
            "architecture": architecture(),
            "os": "linux",
            "config": stage.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": stage.history,
        }
        image_id = self._store.put_blob(msgspec.json.encode(document))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {
                "mediaType": CONFIG_TYPE,
                "digest": image_id,
                "size": self._store.blob(image_id).stat().st_size,
            },
            "layers": [{"mediaType": LAYER_TYPE, "digest": diff_id, "size": 0} for diff_id in diff_ids],
        }
        manifest_digest = self._store.put_blob(msgspec.json.encode(manifest))
        return self._store.add(
            Image(
                id=image_id,
                manifest=manifest_digest,
                layers=names,
                size=stage.size + size,
                tags=tuple(tags),
                digests=tuple(str(parse_reference(tag).with_digest(manifest_digest)) for tag in tags),
                pinned=True,
            )
        )


@contextlib.contextmanager
def _located(instruction: Instruction) -> Iterator[None]:
    """What goes wrong inside is a BuildError that begins with the instruction's line."""
    try:
        yield
    except (BuildError, NotADirectory, InvalidReference, layers.LayerError, OSError, ValueError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        where = f"line {instruction.line}: "
        raise BuildError(text if text.startswith(where) else where + text) from error


def _moment() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

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
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tiphys.runtime import linux
from tiphys.runtime.filesystems import mount_overlay
from tiphys.runtime.images import layers
from tiphys.runtime.images.commit import commit
from tiphys.runtime.images.dockerfile import DockerfileError, Instruction, expand, ignore_rules, ignored, pairs, parse
from tiphys.runtime.images.reference import InvalidReference
from tiphys.runtime.images.reference import parse as parse_reference
from tiphys.runtime.images.run_step import run_step
from tiphys.runtime.images.stage import BuildError, Stage, moment
from tiphys.runtime.images.store import Image, ImageStore
from tiphys.runtime.images.trees import NotADirectory, copy_one, give_owner, resolve_directory

_ARGUMENTS_BEFORE_FROM: Final = frozenset({"FROM", "ARG"})


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
            return commit(store, stage, [f"{x.name}:{x.tag}" for x in references])
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
        self._stages: dict[str, Stage] = {}
        self._mounts: list[Path] = []
        ignore = context / ".dockerignore"
        self._ignore = ignore_rules(ignore.read_text()) if ignore.is_file() else []

    def unmount(self) -> None:
        """Take the overlays away. Idempotent."""
        while self._mounts:
            linux.unmount(self._mounts.pop())

    # ---- the story

    def run(self, instructions: Sequence[Instruction], target: str) -> Stage:
        """Carry out the instructions; the stage called `target`, or the last."""
        stage: Stage | None = None
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

    def _from(self, instruction: Instruction, outer: Mapping[str, str]) -> Stage:
        words = expand(instruction.text, outer).split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise DockerfileError(f"line {instruction.line}: FROM requires either one or three arguments")
        stage = self._new_stage(words[0])
        self._stages[str(len({id(found) for found in self._stages.values()}))] = stage
        if len(words) == 3:
            self._stages[words[2].lower()] = stage
        return stage

    def _new_stage(self, base: str) -> Stage:
        directory = self._work / secrets.token_hex(4)
        upper, merged = directory / "upper", directory / "merged"
        upper.mkdir(parents=True)
        earlier = self._stages.get(base.lower())
        if earlier is not None:
            # The earlier stage has no layer of its own yet: begin with a copy of what it has written.
            lower = [self._store.layer(name) for name in earlier.base]
            config = msgspec.json.decode(msgspec.json.encode(earlier.config))
            stage = Stage(earlier.base, list(earlier.diff_ids), config, merged, upper, list(earlier.history))
            subprocess.run(["cp", "--archive", f"{earlier.upper}/.", str(upper)], check=True)
        elif base == "scratch":
            lower = []
            stage = Stage((), [], {}, merged, upper)
        else:
            image = self._store.find(base) or self._fetch(base)
            document = msgspec.json.decode(self._store.blob(image.id).read_bytes())
            lower = [self._store.layer(name) for name in image.layers]
            stage = Stage(
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

    def _apply(self, stage: Stage, instruction: Instruction, outer: Mapping[str, str]) -> None:
        name, config = instruction.name, stage.config
        values = stage.values()
        text = expand(instruction.text, values)
        expanded = Instruction(name, instruction.flags, text, instruction.line)
        if name in ("COPY", "ADD"):
            self._copy(stage, expanded, values)
        elif name == "RUN":
            run_step(stage, instruction, work=self._work, oci_runtime=self._oci_runtime, say=self._say)
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
                "created": moment(),
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

    def _copy(self, stage: Stage, instruction: Instruction, values: Mapping[str, str]) -> None:
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
            owner = stage.owner(flags.get("chown", ""))
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
        stage: Stage,
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


@contextlib.contextmanager
def _located(instruction: Instruction) -> Iterator[None]:
    """What goes wrong inside is a BuildError that begins with the instruction's line."""
    try:
        yield
    except (BuildError, NotADirectory, InvalidReference, layers.LayerError, OSError, ValueError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        where = f"line {instruction.line}: "
        raise BuildError(text if text.startswith(where) else where + text) from error

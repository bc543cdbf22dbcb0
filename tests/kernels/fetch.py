"""Stock Debian kernels out of Debian's own archive, unpacked into a cache.

apt does the work, with a source list and a state of its own, so that the machine's is left
alone: the mirror is the one this machine's apt uses, and the signatures are checked as usual.
Nothing here needs root.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.catalogue import Kernel

MIRROR_VARIABLE = "PAGEFAULT_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")  # debian-archive-keyring

METAPACKAGE = "linux-image-amd64"
# Debian's kernel is one package up to 6.12 and several since: image, binary, modules, base.
_PART = re.compile(r"linux-(?:image|binary|modules|base)-(\d\S*)")
_IN_RELEASE = re.compile(r"'(?P<base>[^']+)/dists/(?P<suite>[^/']+)/InRelease'")
_DEBIAN_SUITE = re.compile(
    r"bullseye|bookworm|trixie|forky|duke|sid|(?:old){0,2}stable|testing|unstable"
)


class FetchError(Exception):
    """A kernel could not be had; the message says why and what to do."""


@dataclass(frozen=True)
class Image:
    """An unpacked kernel: `release` as `uname -r` says it, `root` its folder in the cache."""

    release: str
    root: Path

    @property
    def vmlinuz(self) -> Path:
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def version(self) -> str:
        """The first two numbers of the release, such as `6.12`."""
        return ".".join(self.release.split(".")[:2])


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where kernels are kept: `pagefault-trace/kernels` in the XDG cache folder."""
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pagefault-trace" / "kernels"


def fetch(kernel: Kernel, cache: Path) -> Image:
    """The kernel from the cache, downloaded into it first if it is not there.

    `cache/NAME` is a link to the folder of the release; without it the
    newest release of the suite is looked up. Raises FetchError.
    """
    link = cache / kernel.name
    if link.is_symlink():
        image = Image(os.readlink(link), cache / os.readlink(link))
        if image.vmlinuz.exists():
            return image
    state = cache / "apt" / kernel.suite
    apt = Apt(state, mirror())
    apt.update(kernel.suite)
    release, packages = kernel_packages(apt.show)
    image = Image(release, cache / release)
    if not image.vmlinuz.exists():
        unpack(apt.download(packages), image)
    shutil.rmtree(state)
    link.unlink(missing_ok=True)
    link.symlink_to(release)
    return image


def unpack(debs: Iterable[Path], image: Image) -> None:
    """Unpack packages into `image.root`, all or nothing, ready for `vng --run`."""
    partial = image.root.with_name(f".{image.release}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    for deb in debs:
        run("dpkg", "-x", str(deb), str(partial))
    # /usr/lib since trixie, /lib before; the kernel image beside its modules since 7.x.
    if not (partial / "lib").exists():
        (partial / "lib").symlink_to("usr/lib")
    boot = partial / "boot"
    boot.mkdir(exist_ok=True)
    vmlinuz = boot / f"vmlinuz-{image.release}"
    if not vmlinuz.exists():
        vmlinuz.symlink_to(f"../lib/modules/{image.release}/vmlinuz")
    run("depmod", "-b", str(partial), image.release)
    if not vmlinuz.exists():
        raise FetchError(f"the packages of {image.release} hold no kernel image")
    shutil.rmtree(image.root, ignore_errors=True)
    partial.rename(image.root)


class Apt:
    """apt on a source list and a state of its own, below `state`."""

    def __init__(self, state: Path, mirror_url: str) -> None:
        self._state = state
        self._mirror = mirror_url
        self._options = [
            f"-oDir::Etc::sourcelist={state}/sources.list",
            "-oDir::Etc::sourceparts=/dev/null",
            "-oDir::Etc::preferencesparts=/dev/null",
            f"-oDir::State::lists={state}/lists",
            "-oDir::State::status=/dev/null",
            f"-oDir::Cache={state}/cache",
            "-oAPT::Architecture=amd64",
            "-oAPT::Architectures::=amd64",
            "-oAcquire::Languages=none",
            # apt would download as user _apt, who cannot write to a cache in root's home.
            "-oAPT::Sandbox::User=root",
        ]

    def update(self, suite: str) -> None:
        for folder in ("lists/partial", "cache/archives/partial", "debs"):
            (self._state / folder).mkdir(parents=True, exist_ok=True)
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        source = f"deb {signed}{self._mirror} {suite} main\n"
        (self._state / "sources.list").write_text(source)
        run("apt-get", *self._options, "--error-on=any", "update")

    def show(self, package: str) -> str:
        return run("apt-cache", *self._options, "show", package)

    def download(self, packages: Iterable[str]) -> list[Path]:
        run("apt-get", *self._options, "download", *packages, cwd=self._state / "debs")
        return sorted((self._state / "debs").glob("*.deb"))


def kernel_packages(show: Callable[[str], str]) -> tuple[str, list[str]]:
    """The release the metapackage stands for, and every package that is part of it.

    `show` gives a package's stanzas as `apt-cache show` does, newest first.
    Raises FetchError where the metapackage names no kernel.
    """
    parts = _kernel_parts(show(METAPACKAGE))
    images = [name for name in parts if name.startswith("linux-image-")]
    if not images:
        raise FetchError(f"{METAPACKAGE} depends on no kernel image")
    packages: list[str] = []
    waiting = images[:1]
    while waiting:
        name = waiting.pop(0)
        if name not in packages:
            packages.append(name)
            waiting += _kernel_parts(show(name))
    match = _PART.fullmatch(packages[0])
    assert match is not None
    return match.group(1), packages


def _kernel_parts(stanzas: str) -> list[str]:
    """The kernel packages the first stanza depends on."""
    for line in stanzas.strip().split("\n\n")[0].splitlines():
        if line.startswith("Depends:"):
            names = re.split(r"[,|]", line.removeprefix("Depends:"))
            words = [name.split()[0] for name in names if name.strip()]
            return [word for word in words if _PART.fullmatch(word)]
    return []


def mirror(environ: Mapping[str, str] = os.environ) -> str:
    """The Debian mirror of this machine's own apt, or what PAGEFAULT_DEBIAN_MIRROR says.

    Raises FetchError where neither names one (apt of another distribution).
    """
    url = environ.get(MIRROR_VARIABLE) or debian_mirror(run("apt-get", "update", "--print-uris"))
    if not url:
        raise FetchError(
            "apt knows no Debian mirror here; "
            f"name one in {MIRROR_VARIABLE} and install debian-archive-keyring"
        )
    return url


def debian_mirror(uris: str) -> str | None:
    """The base URL of the first Debian release among `apt-get update --print-uris`'s lines."""
    for match in _IN_RELEASE.finditer(uris):
        if _DEBIAN_SUITE.fullmatch(match["suite"]):
            return match["base"]
    return None


def run(*command: str, cwd: Path | None = None) -> str:
    """The command's stdout. Raises FetchError with what it said if it is missing or fails."""
    # depmod lives in sbin, which an ordinary user's PATH may lack.
    env = os.environ | {"LC_ALL": "C.UTF-8", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise FetchError(f"{command[0]} is missing: {error}") from error
    if done.returncode:
        words = " ".join(word for word in command if not word.startswith("-o"))
        raise FetchError(f"{words}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout

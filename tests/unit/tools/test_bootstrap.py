"""tools/bootstrap against stand-ins for package managers, sudo, uname and interpreters.

PATH holds nothing but the stand-ins and a few links to plain utilities, so
that every distribution can be played on any machine. Each stand-in logs its
arguments; "installed" packages are lines of a state file.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PLAIN = ("bash", "cat", "chmod", "cksum", "cp", "dirname", "env", "grep", "mkdir", "readlink", "rm",
         "sh", "sort", "tail", "touch")  # fmt: skip

# Lists packages known to the archive ("known", all where the file is absent) and installed ones.
MANAGER = r"""#!/bin/bash
name=${0##*/}
echo "$name $*" >>"$STATE/log"
case $name in
apt-cache) # show NAME
    [[ ! -e $STATE/known ]] || grep -qx -- "$2" "$STATE/known"; exit ;;
dpkg-query) # -W -f FORMAT NAME
    grep -qx -- "${!#}" "$STATE/installed" && echo installed; exit ;;
rpm) grep -qx -- "${!#}" "$STATE/installed"; exit ;;
esac
case " $* " in
*" update "*) cp "$STATE/after-update" "$STATE/known" 2>/dev/null; rm -f "$STATE/stale"; exit 0 ;;
*" -Q "*) grep -qx -- "${!#}" "$STATE/installed"; exit ;;
esac
[[ ! -e $STATE/stale ]] || exit 100
if [[ -x $STATE/policy-rc.d ]]; then
    allowed=0; "$STATE/policy-rc.d" || allowed=$?
    echo "$allowed" >>"$STATE/asked"
fi
[[ ! -e $STATE/broken ]] || exit 100
for word; do
    case $word in
    -*|install|DPkg*|Dpkg*) ;;
    *)
        echo "$word" >>"$STATE/installed"
        case $word in python*bpfcc | python*bcc)
            mkdir -p "$STATE/modules/bcc"
            echo 'class BPF: pass' >"$STATE/modules/bcc/__init__.py"
            touch "$STATE/modules/bcc/libbcc.py" ;;
        esac ;;
    esac
done
"""

# -S: without the real machine's own bcc; modules/ stands for dist-packages.
PYTHON = r"""#!/bin/bash
echo "${0##*/} ${*:1:2}" >>"$STATE/log"
modules=$STATE/modules version=__VERSION__
[[ -e $STATE/bcc-for && $(cat "$STATE/bcc-for") != "${0##*/}" && $0 != */.venv/* ]] && modules=/none
case $1 in
-I) PYTHONPATH=$modules exec __REAL__ -S -s -c "import sys; sys.version_info = $version
$3" ;;
-P) PYTHONPATH=$modules exec __REAL__ -S -s -P -c "from bcc import BPF" ;;
esac
case $2 in
venv) venv=${!#}; rm -rf "$venv"; mkdir -p "$venv/bin"; cp "$0" "$venv/bin/python" ;;
pip)
    echo "${*:3}" >>"$STATE/pip"
    [[ ${PYTHONNOUSERSITE-} ]] || exit 1 # or packages in HOME count as installed
    [[ ! -e $STATE/other-hash || " $* " != *" --require-hashes "* ]] || exit 1
    for name in pagefault-trace pagefault-report ptdump singlemap multimap; do
        echo "#!$0" >"${0%/*}/$name"
    done
    ;;
esac
"""


@dataclass
class Machine:
    """A pretended machine under `root`: bin/ is PATH, usr/ has the interpreters."""

    root: Path

    def script(self, name: str, text: str, folder: str = "bin") -> None:
        path = self.root / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def interpreter(self, name: str, version: tuple[int, int] = (3, 11)) -> None:
        text = PYTHON.replace("__VERSION__", repr(version).replace(" ", ""))
        self.script(name, text.replace("__REAL__", sys.executable), "usr")

    def managers(self, *names: str) -> None:
        for name in names:
            self.script(name, MANAGER)

    def state(self, name: str, text: str) -> None:
        (self.root / "state" / name).write_text(text)

    def lines(self, name: str = "log") -> list[str]:
        path = self.root / "state" / name
        return path.read_text().splitlines() if path.exists() else []

    def installs(self) -> list[str]:
        """The logged calls that change the machine."""
        managers = ("apt-get", "dnf", "pacman -S", "zypper")
        return [line for line in self.lines() if line.startswith(managers)]

    def run(self, *args: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": str(self.root / "bin"),
            "STATE": str(self.root / "state"),
            "BOOTSTRAP_UID": str(uid),
            "BOOTSTRAP_BIN": str(self.root / "usr"),
            "BOOTSTRAP_OS_RELEASE": str(self.root / "os-release"),
            "BOOTSTRAP_ROOT": str(self.root / "checkout"),
            "BOOTSTRAP_POLICY": str(self.root / "state" / "policy-rc.d"),
        }
        return subprocess.run(
            [str(ROOT / "tools" / "bootstrap"), *args],
            env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip


def _machine(root: Path, os_release: str, *managers: str) -> Machine:
    machine = Machine(root)
    for folder in ("bin", "usr", "state", "checkout"):
        (root / folder).mkdir()
    for name in PLAIN:
        target = shutil.which(name, path=os.defpath)
        assert target, f"{name} is not in {os.defpath}"
        (root / "bin" / name).symlink_to(target)
    machine.script("uname", "#!/bin/bash\n[[ $1 == -s ]] && echo Linux || echo x86_64\n")
    machine.script("sudo", '#!/bin/bash\necho "sudo $*" >>"$STATE/log"\nexec "$@"\n')
    machine.managers(*managers)
    machine.interpreter("python3")
    (root / "os-release").write_text(os_release)
    machine.state("installed", "")
    shutil.copy(ROOT / "pyproject.toml", root / "checkout")
    shutil.copytree(ROOT / "requirements", root / "checkout" / "requirements")
    return machine


@pytest.fixture
def debian(tmp_path: Path) -> Machine:
    return _machine(tmp_path, "ID=debian\n", "apt-get", "apt-cache", "dpkg-query")


def _ok(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr


def _refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1
    assert result.stderr.startswith("bootstrap: ")
    return result.stderr


def _by_hash(machine: Machine, lock: str = "dev") -> list[str]:
    """What pip is to be called with: nothing comes from outside but by its hash."""
    checkout = machine.root / "checkout"
    return [
        "install --quiet --require-hashes --only-binary :all:"
        f" -r {checkout}/requirements/{lock}.txt",
        f"install --quiet --no-deps --no-build-isolation -e {checkout}",
    ]


APT = {
    "python3-bpfcc",
    "python3-venv",
    "linux-libc-dev",
    "libbpf1",
    "gcc",
    "libc6-dev",
    "make",
    "tmux",
}
RPM = {"python3-bcc", "python3", "gcc", "glibc-devel", "make", "tmux"}
DISTRIBUTIONS = {
    "debian": ("ID=debian", ["apt-get", "apt-cache", "dpkg-query"], APT),
    "ubuntu": ("ID=ubuntu\nID_LIKE=debian", ["apt-get", "apt-cache", "dpkg-query"], APT),
    "mint": (
        'ID=linuxmint\nID_LIKE="ubuntu debian"', ["apt-get", "apt-cache", "dpkg-query"], APT,
    ),
    "fedora": ("ID=fedora", ["dnf", "rpm"], RPM | {"kernel-headers", "libbpf"}),
    "alma": (
        'ID="almalinux"\nID_LIKE="rhel centos fedora"', ["dnf", "rpm"],
        RPM | {"kernel-headers", "libbpf"},
    ),
    "arch": (
        "ID=arch", ["pacman"],
        {"python-bcc", "python", "linux-api-headers", "libbpf", "gcc", "make", "tmux"},
    ),
    "tumbleweed": (
        'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"', ["zypper", "rpm"],
        RPM | {"linux-glibc-devel", "libbpf1"},
    ),
    "unnamed": ("", ["apt-get", "apt-cache", "dpkg-query"], APT),
}  # fmt: skip


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_each_distribution_and_again(tmp_path: Path, name: str) -> None:
    os_release, managers, packages = DISTRIBUTIONS[name]
    machine = _machine(tmp_path, os_release + "\n", *managers)
    _ok(machine.run())
    assert set(machine.lines("installed")) == packages
    assert machine.lines("pip") == _by_hash(machine)
    first = machine.installs()
    assert len(first) == 1
    assert not any(line.startswith("sudo") for line in machine.lines())

    again = machine.run()
    _ok(again)
    assert again.stderr == ""
    assert machine.installs() == first
    assert machine.lines("pip") == _by_hash(machine)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("debian", "apt-get install -y -qq --no-install-recommends"),
        ("fedora", "dnf install -y --setopt=install_weak_deps=False"),
        ("arch", "pacman -S --needed --noconfirm"),
        ("tumbleweed", "zypper --non-interactive install --no-recommends"),
    ],
)
def test_only_what_is_missing_through_sudo(tmp_path: Path, name: str, command: str) -> None:
    os_release, managers, packages = DISTRIBUTIONS[name]
    machine = _machine(tmp_path, os_release + "\n", *managers)
    there = {package for package in packages if package != "gcc" and "bcc" not in package}
    machine.state("installed", "\n".join(there - {"python3-bpfcc"}) + "\n")
    _ok(machine.run(uid=1000))
    (sudo,) = (line for line in machine.lines() if line.startswith("sudo"))
    assert command in sudo
    assert " gcc" in sudo
    assert "libbpf" not in sudo


def test_neither_root_nor_sudo(debian: Machine) -> None:
    (debian.root / "bin" / "sudo").unlink()
    assert "needs root" in _refused(debian.run(uid=1000))
    assert debian.installs() == []


def test_the_distribution_decides_not_what_is_lying_about(debian: Machine) -> None:
    debian.managers("dnf", "pacman", "zypper", "rpm")
    _ok(debian.run())
    assert all(line.startswith("apt-get") for line in debian.installs())


def test_no_package_manager(tmp_path: Path) -> None:
    machine = _machine(tmp_path, "ID=alpine\n")
    assert "none of apt-get, dnf, pacman, zypper" in _refused(machine.run())


def test_apt_lists_are_refreshed_only_when_needed(debian: Machine) -> None:
    debian.state("known", "")
    debian.state("after-update", "\n".join(APT))
    _ok(debian.run())
    assert [line.split()[1] for line in debian.installs()] == ["update", "install"]


def test_apt_lists_older_than_the_archive(debian: Machine) -> None:
    debian.state("stale", "")
    _ok(debian.run())
    assert [line.split()[1] for line in debian.installs()] == ["install", "update", "install"]


def test_a_package_apt_does_not_know(debian: Machine) -> None:
    debian.state("known", "\n".join(APT - {"libbpf1"}))
    debian.state("after-update", "\n".join(APT - {"libbpf1"}))
    assert "libbpf1 or libbpf0" in _refused(debian.run())


def test_libbpf_by_the_name_there_is(debian: Machine) -> None:
    debian.state("known", "\n".join(APT - {"libbpf1"} | {"libbpf0"}))
    _ok(debian.run())
    assert "libbpf0" in debian.lines("installed")


def test_another_python_first_in_path(debian: Machine) -> None:
    """pyenv's or conda's interpreter is never asked, let alone used."""
    debian.script("python3", '#!/bin/bash\necho "wrong python" >>"$STATE/log"\n')
    _ok(debian.run())
    assert "wrong python" not in debian.lines()
    assert "python3 -m venv" in debian.lines()


def test_bcc_is_for_another_version_than_python3(debian: Machine) -> None:
    debian.interpreter("python3", (3, 13))
    debian.interpreter("python3.11")
    debian.interpreter("python3.9", (3, 9))
    debian.script("python3.11-config", "#!/bin/bash\nexit 1\n", "usr")
    debian.state("bcc-for", "python3.11")
    _ok(debian.run())
    assert "python3.11 -m venv" in debian.lines()
    assert "python3-config" not in " ".join(debian.lines())


def test_bcc_built_from_source_is_left_alone(debian: Machine) -> None:
    bcc = debian.root / "state" / "modules" / "bcc"
    bcc.mkdir(parents=True)
    (bcc / "__init__.py").write_text("class BPF: pass\n")
    (bcc / "libbcc.py").touch()
    _ok(debian.run())
    assert set(debian.lines("installed")) == APT - {"python3-bpfcc"}


def test_the_unrelated_bcc(debian: Machine) -> None:
    bcc = debian.root / "state" / "modules" / "bcc"
    bcc.mkdir(parents=True)
    (bcc / "__init__.py").write_text("VERSION = 1\n")
    word = _refused(debian.run())
    assert str(bcc) in word
    assert "unrelated package" in word
    assert "pip uninstall bcc" in word
    assert debian.installs() == []


def test_bcc_that_does_not_load(debian: Machine) -> None:
    bcc = debian.root / "state" / "modules" / "bcc"
    bcc.mkdir(parents=True)
    (bcc / "__init__.py").write_text("raise OSError('libbcc.so.0: no such file')\n")
    (bcc / "libbcc.py").touch()
    assert "libbcc.so.0" in _refused(debian.run())


def test_a_distribution_with_an_old_python(debian: Machine) -> None:
    debian.interpreter("python3", (3, 10))
    assert "Python is 3.10, and 3.11 is needed" in _refused(debian.run())
    assert debian.installs() == []


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_only_x86(debian: Machine, machine: str) -> None:
    debian.script("uname", f"#!/bin/bash\n[[ $1 == -s ]] && echo Linux || echo {machine}\n")
    word = _refused(debian.run())
    assert "x86-64 only" in word
    assert machine in word
    assert debian.installs() == []


def test_kernels_need_more_and_ordinary_runs_keep_it(debian: Machine) -> None:
    _ok(debian.run("--kernels"))
    wanted = {"qemu-system-x86", "kmod", "busybox-static", "stress-ng"}
    assert wanted <= set(debian.lines("installed"))
    assert debian.lines("pip") == _by_hash(debian, "kernels")
    before = debian.installs()
    _ok(debian.run())
    _ok(debian.run("--kernels"))
    assert debian.installs() == before
    assert len(debian.lines("pip")) == 2


def test_a_browser_for_tests_of_pages(debian: Machine) -> None:
    _ok(debian.run())
    assert "chromium-headless-shell" not in debian.lines("installed")
    _ok(debian.run("--kernels", "--browser"))
    assert {"chromium-headless-shell", "qemu-system-x86"} <= set(debian.lines("installed"))


def test_other_tracers_to_compare_with(debian: Machine) -> None:
    _ok(debian.run())
    assert "bpftrace" not in debian.lines("installed")
    _ok(debian.run("--bench"))
    assert {"linux-perf", "bpftrace", "linux-headers-amd64"} <= set(debian.lines("installed"))


@pytest.mark.parametrize("uid", [0, 1000])
def test_real_programs_are_installed_and_started_by_nobody(debian: Machine, uid: int) -> None:
    _ok(debian.run("--real", uid=uid))
    wanted = {"stress-ng", "redis-server", "postgresql", "default-jdk-headless", "linux-perf"}
    assert wanted <= set(debian.lines("installed"))
    assert debian.lines("asked") == ["101"]  # while apt-get was at work
    assert not (debian.root / "state" / "policy-rc.d").exists()
    before = debian.installs()
    _ok(debian.run("--real", uid=uid))
    assert debian.installs() == before


def test_without_real_programs_nothing_is_said_about_services(debian: Machine) -> None:
    _ok(debian.run("--kernels", "--browser", "--bench"))
    assert debian.lines("asked") == []


def test_a_policy_about_services_that_is_there_stays(debian: Machine) -> None:
    debian.script("policy-rc.d", "#!/bin/bash\nexit 104\n", "state")
    _ok(debian.run("--real"))
    assert debian.lines("asked") == ["104"]
    assert (debian.root / "state" / "policy-rc.d").read_text() == "#!/bin/bash\nexit 104\n"


def test_the_policy_about_services_goes_where_installing_fails(debian: Machine) -> None:
    debian.state("broken", "")
    assert "could not install" in _refused(debian.run("--real"))
    assert debian.lines("asked") == ["101", "101"]
    assert not (debian.root / "state" / "policy-rc.d").exists()


def test_real_programs_by_apt_only(tmp_path: Path) -> None:
    machine = _machine(tmp_path, "ID=fedora\n", "dnf", "rpm")
    assert "--real needs apt-get" in _refused(machine.run("--real"))


def test_kernels_by_apt_only(tmp_path: Path) -> None:
    machine = _machine(tmp_path, "ID=fedora\n", "dnf", "rpm")
    assert "--kernels needs apt-get" in _refused(machine.run("--kernels"))


def test_unknown_argument(debian: Machine) -> None:
    result = debian.run("--kernel")
    assert result.returncode == 2
    assert "usage" in result.stderr


def test_somebody_elses_venv_is_not_touched(debian: Machine) -> None:
    theirs = debian.root / "checkout" / ".venv" / "theirs"
    theirs.parent.mkdir()
    theirs.touch()
    assert "move it away" in _refused(debian.run())
    assert theirs.exists()


def test_the_commands_are_isolated_from_the_callers_python(debian: Machine) -> None:
    _ok(debian.run())
    folder = debian.root / "checkout" / ".venv" / "bin"
    assert (folder / "pagefault-trace").read_text() == f"#!{folder}/python -I\n"


ISOLATE = ROOT / "tools" / "isolate"
SH = "#!/bin/sh\n'''exec' \"/a b/python3\"{} \"$0\" \"$@\"\n' '''\nimport re\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("#!/venv/bin/python3.11\nx\n", "#!/venv/bin/python3.11 -I\nx\n"),
        (SH.format(""), SH.format(" -I")),
    ],
)
def test_how_pip_writes_them(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "command").write_text(before)
    for _ in range(2):
        subprocess.run([ISOLATE, tmp_path, "command"], check=True)
        assert (tmp_path / "command").read_text() == after


def test_what_pip_did_not_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "command").write_text("#!/usr/bin/env bash\n")
    done = subprocess.run(
        [ISOLATE, tmp_path, "command"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "does not begin as pip writes it" in done.stderr


@pytest.mark.parametrize(
    "harm", ["changed pyproject", "renewed lock", "broken venv", "interrupted"]
)
def test_the_venv_is_made_again_when_it_must(debian: Machine, harm: str) -> None:
    _ok(debian.run())
    checkout = debian.root / "checkout"
    if harm == "changed pyproject":
        (checkout / "pyproject.toml").write_text("[project]\n")
    elif harm == "renewed lock":
        (checkout / "requirements" / "dev.txt").write_text("click==8.5.2 --hash=sha256:0\n")
    elif harm == "broken venv":
        (checkout / ".venv" / "bin" / "python").unlink()
    else:
        (checkout / ".venv" / ".bootstrap-dev").unlink()
    _ok(debian.run())
    assert debian.lines("pip") == _by_hash(debian) * 2
    _ok(debian.run())
    assert len(debian.lines("pip")) == 4


def test_a_file_of_another_hash_stops_it_each_time(debian: Machine) -> None:
    debian.state("other-hash", "")
    for _ in range(2):
        assert "pip could not install" in _refused(debian.run())
    (debian.root / "state" / "other-hash").unlink()
    _ok(debian.run())
    assert debian.lines("pip") == _by_hash(debian)[:1] * 2 + _by_hash(debian)

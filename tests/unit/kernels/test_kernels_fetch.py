"""Which packages make a stock kernel, and where they come from: tests/kernels/fetch.py."""

import pytest

from tests.kernels.fetch import FetchError, Image, cache_folder, debian_mirror, kernel_packages

TRIXIE = {
    "linux-image-amd64": """\
Package: linux-image-amd64
Version: 6.12.107-1
Depends: linux-image-6.12.107+deb13-amd64 (= 6.12.107-1)
Description: Linux for 64-bit PCs (meta-package)

Package: linux-image-amd64
Version: 6.12.90-1
Depends: linux-image-6.12.90+deb13-amd64 (= 6.12.90-1)
""",
    "linux-image-6.12.107+deb13-amd64": """\
Package: linux-image-6.12.107+deb13-amd64
Depends: kmod, initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool
""",
}
SID = {
    "linux-image-amd64": """\
Package: linux-image-amd64
Depends: linux-base-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-amd64 (= 7.2.13-1)
""",
    "linux-image-7.2.13+deb14-amd64": """\
Package: linux-image-7.2.13+deb14-amd64
Depends: dracut | linux-initramfs-tool, linux-base-7.2.13+deb14-amd64 (= 7.2.13-1), \
linux-binary-7.2.13+deb14-amd64 (= 7.2.13-1), linux-modules-7.2.13+deb14-amd64 (= 7.2.13-1)
""",
    "linux-base-7.2.13+deb14-amd64": "Package: linux-base-7.2.13+deb14-amd64\n",
    "linux-binary-7.2.13+deb14-amd64": "Package: linux-binary-7.2.13+deb14-amd64\n",
    "linux-modules-7.2.13+deb14-amd64": """\
Package: linux-modules-7.2.13+deb14-amd64
Depends: kmod, linux-base-7.2.13+deb14-amd64 (= 7.2.13-1)
""",
}


def test_a_kernel_in_one_package_has_the_newest_version() -> None:
    release, packages = kernel_packages(TRIXIE.__getitem__)
    assert release == "6.12.107+deb13-amd64"
    assert packages == ["linux-image-6.12.107+deb13-amd64"]


def test_a_kernel_in_several_packages_is_complete_and_names_none_twice() -> None:
    release, packages = kernel_packages(SID.__getitem__)
    assert release == "7.2.13+deb14-amd64"
    assert packages == [
        f"linux-{part}-7.2.13+deb14-amd64" for part in ("image", "base", "binary", "modules")
    ]


def test_a_metapackage_without_a_kernel_is_an_error() -> None:
    with pytest.raises(FetchError, match="depends on no kernel image"):
        kernel_packages(lambda _: "Package: linux-image-amd64\nDepends: linux-base\n")


def test_the_mirror_is_the_one_apt_uses_for_debian() -> None:
    uris = (
        "'http://other.example/repo/dists/nodistro/InRelease' other_InRelease 0 \n"
        "'http://mirror.example/debian-security/dists/bookworm-security/InRelease' s 0 \n"
        "'http://mirror.example/debian/dists/bookworm/InRelease' mirror_InRelease 0 \n"
        "'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' p 0 \n"
    )
    assert debian_mirror(uris) == "http://mirror.example/debian"


def test_another_distributions_apt_names_no_mirror() -> None:
    assert debian_mirror("'http://x.example/ubuntu/dists/noble/InRelease' x_InRelease 0 \n") is None


def test_the_cache_follows_xdg() -> None:
    folder = cache_folder({"XDG_CACHE_HOME": "/x"})
    assert str(folder) == "/x/pagefault-trace/kernels"
    assert Image("6.12.107+deb13-amd64", folder).version == "6.12"
    assert Image("6.1.0-50-amd64", folder).vmlinuz.name == "vmlinuz-6.1.0-50-amd64"

"""The live tests on stock kernels: `python -m tests.kernels` (see `--help`).

The path: `catalogue` (which kernels, which skips are expected) → `fetch`
(Debian's own packages, by apt, cached) → `boot` (QEMU without KVM, the host's
root as the guest's) → `guest.sh` and `report` (inside: one pytest run for all
probes) → `results` (the table kernel × probe × test, and the verdict).
"""

"""bpf/walk.h, compiled for this machine: contiguous frames, against a walk entry by entry."""

import shutil
import subprocess
from pathlib import Path

import pytest

BPF = Path(__file__).parents[3] / "bpf"

# Page tables at random: contiguous frames, with holes of every kind, few or many, short or long.
CONTIGUOUS = r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef int64_t s64;
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
static long bpf_probe_read_kernel(void *to, u32 size, const void *from)
{
    memcpy(to, from, size);
    return 0;
}
static u64 bpf_get_current_task(void) { return 0; }
#include "shared.h"
#include "kernel.h"
#include "walk.h"

static u64 table[512] __attribute__((aligned(4096)));

static u32 at_random(u32 below)
{
    static u64 state = 1;
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (state >> 33) % below;
}

static u64 hole(u64 entry)
{
    switch (at_random(4)) {
    case 0: return 0;
    case 1: return entry + 4096;
    case 2: return (entry & ~ENTRY_PRESENT) | ENTRY_PROTNONE;
    default: return entry ^ 1ULL << 51;
    }
}

static void one_by_one(s64 window, u64 frame, int step, u16 *found)
{
    for (; window >= 0 && window < WINDOWS; window += step) {
        for (int i = window * WINDOW_PAGES; i < (window + 1) * WINDOW_PAGES; i++)
            found[window] |= maps_frame(table[i], frame + i * 4096L) << i % WINDOW_PAGES;
        if (!found[window])
            break;
    }
}

int main(void)
{
    u64 window[WINDOW_ENTRIES];
    u32 longest = 0, in_part = 0, short_ones = 0;
    for (int turn = 0; turn < 20000; turn++) {
        u16 found[WINDOWS] = {0}, expected[WINDOWS] = {0};
        u64 frame = (1ULL << 30) + ((u64)at_random(1 << 20) << 12);
        int step = at_random(2) ? 1 : -1;
        u32 start = step > 0 ? 1 + at_random(WINDOWS) : at_random(WINDOWS) - 1, length = 0;
        for (int i = 0; i < 512; i++)
            table[i] = (frame + i * 4096L) | 0x8000000000000067ULL;
        for (u32 holes = at_random(20); holes; holes--)
            for (u32 at = at_random(512), end = at + at_random(40); at < end && at < 512; at++)
                table[at] = hole(table[at]);
        contiguous_frames((u64)table, start, frame, step, window, found);
        one_by_one((s64)(int)start, frame, step, expected);
        if (memcmp(found, expected, sizeof(found))) {
            printf("from window %d by %d: not what the entries say\n", (int)start, step);
            return 1;
        }
        for (int i = 0; i < WINDOWS; i++) {
            length += found[i] != 0;
            in_part += found[i] && found[i] != 0xffff;
        }
        longest = length > longest ? length : longest;
        short_ones += length && length < WINDOWS - 1;
    }
    printf("%u %d %d\n", longest, in_part > 10000, short_ones > 1000);
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_contiguous_frames_have_the_pages_that_are_among_them(tmp_path: Path) -> None:
    """Up and down, from any window to the first without; the longest is all windows but one."""
    source, binary = tmp_path / "contiguous.c", tmp_path / "contiguous"
    source.write_text(CONTIGUOUS)
    flags = ["-O2", "-DLEVELS=4", f"-I{BPF}", "-Wno-unknown-pragmas", "-o", str(binary)]
    subprocess.run(["gcc", *flags, str(source)], check=True)
    said = subprocess.run([binary], check=False, capture_output=True, text=True).stdout
    assert said == "31 1 1\n"

/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * process_vm_writev(2): its writes to another process's memory raise no exception, and perf's
 * events report only faults that do. Reported as a call of the process that is written to, with
 * up to three ranges as its arguments (address, length) and the bytes written from the first of
 * them on as its result. A 32-bit program's (number 348, ranges of half the size) is not
 * reported.
 */
#ifndef PAGEFAULT_REMOTE_WRITE_H
#define PAGEFAULT_REMOTE_WRITE_H

#define WRITTEN_PARTS 24 /* ranges of a call that are reported */
#define WRITTEN_AT_ONCE 3

/* Read the ranges from `first` on, 0 where there are no more; returns their bytes in all. */
static __always_inline u64 read_parts(u64 ranges, u32 first, u32 count, u64 *args)
{
	u64 bytes = 0;

#pragma unroll
	for (u32 i = 0; i < WRITTEN_AT_ONCE; i++) {
		args[2 * i] = args[2 * i + 1] = 0;
		if (first + i < count)
			bpf_probe_read_user(args + 2 * i, 16, (void *)(ranges + (first + i) * 16));
		bytes += args[2 * i + 1];
	}
	return bytes;
}

#endif

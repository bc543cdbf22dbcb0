/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * ioctls on a userfaultfd: they fill memory without a fault, in the process that created the
 * descriptor, whichever process holds it. Structures: include/uapi/linux/userfaultfd.h.
 *
 * Reported as a call of number CALL_IOCTL with the arguments: the ioctl's number, the start of
 * the range that was done, its length in bytes, and the source of the frames (UFFDIO_MOVE) or
 * the mode (UFFDIO_REGISTER).
 */
#ifndef PAGEFAULT_USERFAULT_H
#define PAGEFAULT_USERFAULT_H

#define UFFD_TYPE 0xAA      /* _IOC_TYPE of all of them */
#define UFFD_NEW 0x0000AA00 /* /dev/userfaultfd: makes a descriptor */

struct userfault {
	u64 mm; /* the mm it was created for */
	u64 command, start, length, other;
};

/* Whether a call that succeeded created a userfaultfd. */
static __always_inline int makes_userfault(u64 number, u64 command)
{
	return number == CALL_USERFAULTFD || (number == CALL_IOCTL && command == UFFD_NEW);
}

/* Five words hold every argument structure; the kernel has written its result into them. */
static __always_inline int parse_userfault(u64 command, u64 argument, u64 result,
					   struct userfault *u)
{
	u64 words[5] = {};
	u64 done;

	u->command = command & 0xff;
	if (((command >> 8) & 0xff) != UFFD_TYPE)
		return 0;
	if (u->command == UFFD_UNREGISTER)
		bpf_probe_read_user(words, 16, (void *)argument);
	else if (u->command == UFFD_COPY || u->command == UFFD_MOVE)
		bpf_probe_read_user(words, 40, (void *)argument);
	else if (u->command == UFFD_REGISTER || u->command == UFFD_ZEROPAGE ||
		 u->command == UFFD_CONTINUE)
		bpf_probe_read_user(words, 32, (void *)argument);
	else
		return 0;
	u->start = words[0];
	u->length = words[1];
	u->other = words[2];
	if (u->command == UFFD_REGISTER || u->command == UFFD_UNREGISTER)
		return result == 0;
	/* Bytes done; also with an error a part may have been done. */
	done = words[3];
	if (u->command == UFFD_COPY || u->command == UFFD_MOVE) {
		u->other = words[1];
		u->length = words[2];
		done = words[4];
	}
	if (result != 0) {
		if ((long long)done <= 0 || done > u->length)
			return 0;
		u->length = done;
	}
	return 1;
}

#ifdef O_UFFD_MM
/* The mm that the calling thread's userfaultfd `fd` was created for. */
static __always_inline u64 userfault_memory(u64 task, u32 fd)
{
	u64 files = 0, table = 0, all = 0, file = 0, context = 0, mm = 0;

	READ(files, task, O_TASK_FILES);
	READ(table, files, O_FILES_TABLE);
	READ(all, table, O_TABLE_FILES);
	READ(file, all, (u64)fd * 8);
	READ(context, file, O_FILE_PRIVATE);
	READ(mm, context, O_UFFD_MM);
	return mm;
}
#endif

#endif

/* Stand-in: the x86-64 register frame, arch/x86/include/asm/ptrace.h. Unchanged since 2.6.25. */
#ifndef PAGEFAULT_COMPAT_PTRACE_H
#define PAGEFAULT_COMPAT_PTRACE_H

struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx;
	unsigned long r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};

#endif

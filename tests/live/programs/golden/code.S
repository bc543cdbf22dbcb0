/* SPDX-License-Identifier: MIT */
/* Functions that no compiler would write as they are here. */
	.text

	.macro function name
	.globl \name
	.type \name, @function
\name:
	.endm

	.macro ends name
	.size \name, . - \name
	.endm

/* cfi_pushes(page), cfi_touches(page): with unwind information. */
function cfi_touches
	.cfi_startproc
	pushq %r12
	.cfi_adjust_cfa_offset 8
	subq $72, %rsp
	.cfi_adjust_cfa_offset 72
	movb $1, (%rdi)
	addq $72, %rsp
	.cfi_adjust_cfa_offset -72
	popq %r12
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
ends cfi_touches

function cfi_pushes
	.cfi_startproc
	pushq %rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	pushq %rbx
	.cfi_adjust_cfa_offset 8
	movq $-1, %rbp
	subq $24, %rsp
	.cfi_adjust_cfa_offset 24
	call cfi_touches
	addq $24, %rsp
	.cfi_adjust_cfa_offset -24
	popq %rbx
	.cfi_adjust_cfa_offset -8
	popq %rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	ret
	.cfi_endproc
ends cfi_pushes

/* bare_calls(page), bare_touches(page): without, but with frame pointers. */
function bare_touches
	pushq %rbp
	movq %rsp, %rbp
	movb $1, (%rdi)
	popq %rbp
	ret
ends bare_touches

function bare_calls
	pushq %rbp
	movq %rsp, %rbp
	subq $48, %rsp
	call bare_touches
	leave
	ret
ends bare_calls

/* zero_touches(page): rbp is 0 at the fault. */
function zero_touches
	.cfi_startproc
	pushq %rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	xorl %ebp, %ebp
	movb $1, (%rdi)
	popq %rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	ret
	.cfi_endproc
ends zero_touches

/*
 * entry_calls(page, next): calls an entry as the linker makes them in .plt, which faults before
 * and after it has pushed its index, by the expression that the linker writes for all entries.
 */
	.balign 16
function entry_touches
	.cfi_startproc
	.cfi_escape 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22
	movb $1, (%rdi)
	nop
	nop
	nop
	pushq $0
	nop
	nop
	nop
	movb $1, (%rsi)
	jmp 1f
	.balign 16
	.cfi_endproc
ends entry_touches
	.cfi_startproc
	.cfi_adjust_cfa_offset 8
1:	addq $8, %rsp
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc

function entry_calls
	.cfi_startproc
	subq $8, %rsp
	.cfi_adjust_cfa_offset 8
	call entry_touches
	addq $8, %rsp
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
ends entry_calls

/* noreturn_last: where the call would return to is another function's first instruction. */
function noreturn_last
	.cfi_startproc
	subq $72, %rsp
	.cfi_adjust_cfa_offset 72
	call noreturn_touches
	.cfi_endproc
ends noreturn_last

function noreturn_next
	.cfi_startproc
	ret
	.cfi_endproc
ends noreturn_next

/* signal_traps: interrupted between its pushes. */
function signal_traps
	.cfi_startproc
	pushq %rbx
	.cfi_adjust_cfa_offset 8
	pushq %rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	xorl %ebp, %ebp
	int3
	pushq %r12
	.cfi_adjust_cfa_offset 8
	popq %r12
	.cfi_adjust_cfa_offset -8
	popq %rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	popq %rbx
	.cfi_adjust_cfa_offset -8
	ret
	.cfi_endproc
ends signal_traps

/* signal_first(page): interrupted at its first instruction, before which is another function. */
function signal_before
	.cfi_startproc
	.cfi_adjust_cfa_offset 32
	nop
	.cfi_endproc
ends signal_before

function signal_first
	.cfi_startproc
	movb $1, (%rdi)
	ret
	.cfi_endproc
ends signal_first

	.section .note.GNU-stack, "", @progbits

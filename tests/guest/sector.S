/*
 * A guest that fits into a boot sector: for places where a Linux would be too slow or too large, and for the dirty log of
 * any KVM. It writes PAGES pages, from 1 MiB on, again and again, and checks them while it does:
 *
 *   dword 0 of page p   the number of the round
 *   dword 1             p, written once
 *
 * A page that holds something else has been lost or mixed up: 'X' on the serial port. '+' when it starts, '.' after every
 * 256 rounds. SPIN pauses between rounds slow it down.
 */
	.set	COM1, 0x3f8
	.set	BASE, 0x100000

	.code16
	.globl	_start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	inb	$0x92, %al		/* A20 */
	orb	$2, %al
	outb	%al, $0x92
	lgdtw	gdt_pointer
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$8, $flat

	.code32
flat:
	movw	$16, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$0x7000, %esp
	movw	$COM1, %dx
	movb	$'+', %al
	outb	%al, %dx

	movl	$BASE, %edi		/* round 0 */
	xorl	%ecx, %ecx
1:	movl	$0, (%edi)
	movl	%ecx, 4(%edi)
	addl	$4096, %edi
	incl	%ecx
	cmpl	$PAGES, %ecx
	jb	1b

	xorl	%ebx, %ebx		/* the round so far */
round:
	movl	$BASE, %edi
	xorl	%ecx, %ecx
2:	cmpl	%ebx, (%edi)
	jne	3f
	cmpl	%ecx, 4(%edi)
	je	4f
3:	movb	$'X', %al
	outb	%al, %dx
	movl	%ebx, (%edi)		/* say it once */
	movl	%ecx, 4(%edi)
4:	incl	(%edi)
	addl	$4096, %edi
	incl	%ecx
	cmpl	$PAGES, %ecx
	jb	2b

	incl	%ebx
	testb	%bl, %bl
	jnz	5f
	movb	$'.', %al
	outb	%al, %dx
5:	movl	$SPIN, %ecx
	jecxz	round
6:	pause
	decl	%ecx
	jnz	6b
	jmp	round

	.align	8
gdt:	.quad	0
	.quad	0x00cf9a000000ffff	/* code, all of memory */
	.quad	0x00cf92000000ffff	/* data */
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

	.org	510
	.word	0xaa55

/*
 * A guest that fits into a boot sector: for places where a Linux would be too slow or too large, and for the dirty log of
 * any KVM. It writes PAGES pages, from 1 MiB on, again and again, and checks them while it does:
 *
 *   dword 0 of page p   the number of the round
 *   dword 1             p, written once
 *
 * A page that holds something else has been lost or mixed up: 'X' on the serial port. '+' when it starts, '.' after every
 * 256 rounds. SPIN pauses between rounds slow it down.
 *
 * With RECORD=1 every round is also on record: first in memory, then in dword 0 of the second sector of its disk (IDE), then as a line of
 * eight hexadecimal digits on the serial port instead of the '.'. So at any instant memory >= disk >= port, each at most one ahead. Before it
 * writes the disk it reads it: what is not the round before is of another instant than its memory, 'X'. RECORD=2: on two disks, one after the other.
 */
	.set	COM1, 0x3f8
	.set	BASE, 0x100000
	.set	SECTOR, 0x8000		/* where it is read to and written from */
	.set	IDE, 0x1f0
	.set	DRIVE, 0x7100		/* a byte: the disk at hand, as IDE selects it */

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
	.if	RECORD
	call	record
	.else
	testb	%bl, %bl
	jnz	5f
	movb	$'.', %al
	outb	%al, %dx
	.endif
5:	movl	$SPIN, %ecx
	jecxz	round
6:	pause
	decl	%ecx
	jnz	6b
	jmp	round

	.if	RECORD
/* Disks, then port; ebx is the round, and its predecessor is what each disk should hold. */
record:
	movb	$0xe0, DRIVE
disk:	movb	$0x20, %al		/* read */
	call	command
	movl	$SECTOR, %edi
	movl	$256, %ecx
	rep	insw
	leal	-1(%ebx), %eax
	cmpl	SECTOR, %eax
	je	7f
	movb	$'X', %al
	call	put
7:	movl	%ebx, SECTOR
	movb	$0x30, %al		/* write */
	call	command
	movl	$SECTOR, %esi
	movl	$256, %ecx
	rep	outsw
	movw	$IDE + 7, %dx
8:	inb	%dx, %al		/* until it is done */
	testb	$0x80, %al
	jnz	8b
	addb	$0x10, DRIVE
	cmpb	$(0xe0 + 0x10 * RECORD) & 0xff, DRIVE
	jne	disk
	movl	$8, %ecx
	movl	%ebx, %esi
9:	roll	$4, %esi
	movl	%esi, %eax
	andb	$15, %al
	addb	$'0', %al
	cmpb	$'9', %al
	jbe	10f
	addb	$'a' - '9' - 1, %al
10:	call	put
	loop	9b
	movb	$'\n', %al
put:	movw	$COM1, %dx
	outb	%al, %dx
	ret

/* al, for one sector, LBA 1 of the disk at hand; returns when it takes or gives the data, at port dx. */
command:
	movb	%al, %ah
	movw	$IDE + 6, %dx
	movb	DRIVE, %al
	outb	%al, %dx
	movw	$IDE + 2, %dx
	movb	$1, %al
	outb	%al, %dx
	incw	%dx
	outb	%al, %dx
	incw	%dx
	movb	$0, %al
	outb	%al, %dx
	incw	%dx
	outb	%al, %dx
	movw	$IDE + 7, %dx
	movb	%ah, %al
	outb	%al, %dx
11:	inb	%dx, %al
	testb	$0x80, %al
	jnz	11b
	testb	$8, %al
	jz	11b
	movw	$IDE, %dx
	ret
	.endif

	.align	8
gdt:	.quad	0
	.quad	0x00cf9a000000ffff	/* code, all of memory */
	.quad	0x00cf92000000ffff	/* data */
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

	.org	510
	.word	0xaa55

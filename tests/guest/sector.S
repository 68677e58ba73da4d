/*
 * A guest that fits into a boot sector: for places where a Linux would be too slow or too large, and for the dirty log of
 * any KVM. It writes PAGES pages, from 1 MiB on, again and again, and checks them while it does:
 *
 *   dword 0 of page p   the number of the round
 *   dword 1             p, written once
 *
 * LOAD (make-sector has names for it) says what else is written to the page each time:
 *
 *   0   nothing: the counter above
 *   1   a row of a database: 80 bytes of one of its 32 rows are new letters, dword 2 a new checksum
 *   2   what is there already; then dword 0 counts in page 0 alone
 *   3   noise, the whole page
 *
 * Letters and noise are copied from a pool behind the pages, from anywhere in it: where KVM is itself emulated, every instruction counts.
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
	.set	POOL, BASE + 4096 * PAGES
	.set	POOL_BITS, 14 + 3 * LOAD	/* its size in bytes, but for one page more */
	.set	DRIVE, 0x7100		/* a byte: the disk at hand, as IDE selects it */

	.code16
	.globl	_start
_start:
	cli
	cld
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

	.if	LOAD & 1
	movl	$POOL, %edi
	movl	$(1 << POOL_BITS) / 4 + 1024, %ecx
	movl	$0x9e3779b9, %ebp
	xorl	%esi, %esi
12:	movl	$4294957665, %eax	/* multiply with carry: ebp, esi */
	mull	%ebp
	addl	%esi, %eax
	adcl	$0, %edx
	movl	%edx, %esi
	movl	%eax, %ebp
	.if	LOAD == 1
	andl	$0x0f0f0f0f, %eax
	addl	$0x61616161, %eax
	.endif
	stosl
	loop	12b
	.endif

	movl	$BASE, %edi		/* round 0 */
	xorl	%ecx, %ecx
1:	movl	$0, (%edi)
	movl	%ecx, 4(%edi)
	.if	LOAD == 1
	movl	$8, %eax
	movl	$1022, %esi
	call	copy
	.endif
	addl	$4096, %edi
	incl	%ecx
	cmpl	$PAGES, %ecx
	jb	1b

	xorl	%ebx, %ebx		/* the round so far */
round:
	movl	$BASE, %edi
	xorl	%ecx, %ecx
2:	movl	%ebx, %eax
	.if	LOAD == 2
	jecxz	13f
	xorl	%eax, %eax
13:
	.endif
	cmpl	%eax, (%edi)
	jne	3f
	cmpl	%ecx, 4(%edi)
	je	4f
3:	movl	%eax, (%edi)		/* say it once */
	movl	%ecx, 4(%edi)
	movb	$'X', %al
	outb	%al, %dx
4:
	.if	LOAD == 2
	orl	$0, 4(%edi)
	jecxz	14f
	jmp	15f
14:	incl	(%edi)
15:
	.else
	incl	(%edi)
	.endif
	.if	LOAD == 1
	movl	%ebp, 8(%edi)
	movl	%ebp, %eax
	shrl	$16, %eax
	andl	$31, %eax
	shll	$7, %eax
	addl	$48, %eax
	movl	$20, %esi
	call	copy
	.elseif	LOAD == 3
	movl	$8, %eax
	movl	$1022, %esi
	call	copy
	.endif
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

	.if	LOAD & 1
/* To byte eax of the page, esi dwords. */
copy:	pushl	%ecx
	pushl	%edi
	addl	%eax, %edi
	movl	%esi, %ecx
	imull	$69069, %ebp, %ebp
	incl	%ebp
	movl	%ebp, %esi
	shrl	$32 - POOL_BITS, %esi
	andl	$~3, %esi
	addl	$POOL, %esi
	rep movsl
	popl	%edi
	popl	%ecx
	ret
	.endif

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

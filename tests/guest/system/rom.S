# A firmware image of 64 KiB at 0xF0000 that walks through the modes of the processor and reports what it sees
# to port 0xE9, as text. The same image runs in QEMU and on the engine; the texts must agree.
# Memory: 0x500 resume address, 0x600 stack pointer kept, 0x1000 IDT, 0x2000 TSS, 0x7000 real-mode stack,
# 0x8000-0xBFFF stacks, 0x10000-0x15FFF page tables, 0x20000 code and data of ring 3 and virtual-8086 mode.
        .code16
        .globl  start
        .set    B, 0xF0000
.macro  say     c
        movb    $\c, %al
        outb    %al, $0xE9
.endm
        .org    0
start:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7000, %sp
        # ------------------------------------------------------------ real mode
        movw    $0, %di                 # all vectors to real_stub_n
        movw    $(real_stubs - B), %ax
        movw    $32, %cx
1:      movw    %ax, (%di)
        movw    $0xF000, 2(%di)
        addw    $4, %di
        addw    $8, %ax
        loop    1b
        say     'R'
        int     $0x15
        int3
        movb    $0x7F, %al
        addb    $1, %al
        into
        movw    $(1f - B), 0x500
        xorw    %cx, %cx
        movw    $5, %ax
        divw    %cx                     # #DE, a fault: resumed at 1
        nop
1:      movw    $(1f - B), 0x500
        ud2
1:      movw    $10, 0x700
        movw    $20, 0x702
        movw    $15, %ax
        boundw  %ax, 0x700              # inside
        movw    $(1f - B), 0x500
        movw    $21, %ax
        boundw  %ax, 0x700              # #BR
1:      movw    $(1f - B), 0x500
        aam     $0                      # #DE
1:      pushf                           # single steps, and MOV SS holds one off
        orw     $0x100, (%esp)
        popf
        nop
        movw    %ss, %ax
        movw    %ax, %ss
        nop
        pushf
        andw    $~0x100, (%esp)
        popf
        nop
        # far call and return, far pointers, segments that wrap
        lcall   $0xF000, $(far_real - B)
        movw    $0x1234, %ax
        pushw   %cs
        call    far_real
        # ------------------------------------------------------------ protected mode
        say     'P'
        movw    $(gdt - B), %si
        movw    $0x3000, %di
        movw    $(gdt_end - gdt), %cx
        rep movsb %cs:(%si), %es:(%di)
        lgdtl   %cs:(gdt_pointer - B)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $0x08, $protected
far_real:
        say     'f'
        lret
        .balign 8
real_stubs:
        .set    n, 0
        .rept   32
        .balign 8
        pushw   $n
        jmp     real_common
        .set    n, n + 1
        .endr
        .balign 8
real_common:                            # vector, IP, CS, FLAGS on the stack
        pushal
        movw    %sp, %bp
        say     '#'
        movw    32(%bp), %ax
        call    hex16
        movw    34(%bp), %ax
        call    hex16
        movw    36(%bp), %ax
        call    hex16
        movw    38(%bp), %ax
        call    hex16
        movw    %bp, %ax
        call    hex16
        movw    0x500, %ax
        testw   %ax, %ax
        jz      1f
        movw    %ax, 34(%bp)
        movw    $0, 0x500
1:      popal
        addw    $2, %sp
        iret
hex16:  movw    %ax, %dx
        movw    $4, %cx
1:      rolw    $4, %dx
        movb    %dl, %al
        andb    $15, %al
        cmpb    $10, %al
        sbbb    $0x69, %al
        das
        outb    %al, $0xE9
        loop    1b
        say     ' '
        ret

# ---------------------------------------------------------------------- 32-bit protected mode
        .code32
.macro  fault   label
        movl    $\label, 0x500
.endm
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        xorl    %eax, %eax
        movw    %ax, %fs
        movw    %ax, %gs
        movl    $0xA000, %esp
        # IDT of 32-bit interrupt gates, DPL 3 for 3, 4 and 0x30
        movl    $0x1000, %edi
        movl    $stubs32, %ebx
        movl    $0x31, %ecx
1:      movl    %ebx, %eax
        movw    %ax, (%edi)
        movw    $0x08, 2(%edi)
        movw    $0x8E00, 4(%edi)
        shrl    $16, %eax
        movw    %ax, 6(%edi)
        addl    $8, %edi
        addl    $16, %ebx
        loop    1b
        movb    $0xEE, 0x1000 + 3*8 + 5
        movb    $0xEE, 0x1000 + 4*8 + 5
        movb    $0xEF, 0x1000 + 0x30*8 + 5      # a trap gate
        movb    $0x0E, 0x1000 + 0x2F*8 + 5      # not present
        lidt    idt_pointer32
        # TSS
        movl    $0x2000, %edi
        xorl    %eax, %eax
        movl    $0x68, %ecx
        rep stosb
        movl    $0xB000, 0x2004
        movw    $0x10, 0x2008
        movw    $0x68, 0x2066
        movw    $0x28, %ax
        ltr     %ax
        # plain faults in ring 0
        fault   1f
        ud2
1:      int     $0x30
        int3
        fault   1f
        int     $0x2F                   # #NP
1:      fault   1f
        int     $0x31                   # beyond the IDT: #GP
1:      fault   1f
        movw    $0x50, %ax
        movw    %ax, %ds                # not present: #NP
1:      fault   1f
        movw    $0x50, %ax
        movw    %ax, %ss                # #SS
1:      fault   1f
        movw    $0x08, %ax
        movw    %ax, %ss                # code in SS: #GP
1:      fault   1f
        movw    $0x1F8, %ax
        movw    %ax, %es                # beyond the GDT
1:      fault   1f
        ljmp    $0x10, $0               # data in CS
1:      lar     %eax, %eax
        movl    $0x58, %eax
        lsl     %eax, %ebx
        movl    %ebx, %eax
        call    hex32
        movl    $0x20, %eax
        lar     %eax, %ebx
        movl    %ebx, %eax
        call    hex32
        # single step, exec and data breakpoints
        pushf
        orl     $0x100, (%esp)
        popf
        nop
        pushf
        andl    $~0x100, (%esp)
        popf
        movl    $2f, %eax
        movl    %eax, %dr0
        movl    $0x704, %eax
        movl    %eax, %dr1
        movl    $0x402, %eax            # DR0 exec, global
        movl    %eax, %dr7
        nop
2:      nop
        movl    $0x00D00408, %eax       # DR1 write, 4 bytes, global
        movl    %eax, %dr7
        movl    %eax, 0x700
        movl    0x704, %ebx
        movl    %eax, 0x706
        movb    %al, 0x708
        movl    $0x704, %esi
        movl    $0x6F8, %edi
        movl    $6, %ecx
        rep movsl                       # stores to the watched cell in between
        xorl    %eax, %eax
        movl    $0x400, %eax
        movl    %eax, %dr7
        # ring 3 by IRET, back by INT, call gate, and a privileged instruction
        movl    $user32, %esi
        movl    $0x20000, %edi
        movl    $(user32_end - user32), %ecx
        rep movsb
        movl    %esp, 0x600
        pushl   $0x23
        pushl   $0x20F00
        pushl   $0x0002
        pushl   $0x1B
        pushl   $0x20000
        iret
back32: movl    0x600, %esp
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        # virtual-8086 mode
        say     'V'
        movl    $v86, %esi
        movl    $0x20000, %edi
        movl    $(v86_end - v86), %ecx
        rep movsb
        movl    $v86_back, 0x604
        movl    %esp, 0x600
        movl    $0xB000, 0x2004
        pushl   $0                      # GS FS DS ES SS ESP EFLAGS CS EIP
        pushl   $0
        pushl   $0x2000
        pushl   $0x2000
        pushl   $0x2000
        pushl   $0xE00
        pushl   $0x20002
        pushl   $0x2000
        pushl   $0
        iret
v86_back:
        movl    0x600, %esp
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        # 32-bit paging: identity with 4 KiB pages over 4 MiB, some special
        say     'G'
        movl    $0x10000, %edi
        xorl    %eax, %eax
        movl    $0x800, %ecx
        rep stosl
        movl    $0x11007, 0x10000
        movl    $7, %eax
        movl    $0x11000, %edi
        movl    $1024, %ecx
1:      movl    %eax, (%edi)
        addl    $0x1000, %eax
        addl    $4, %edi
        loop    1b
        movl    $0x30005, 0x11000 + 0x30*4      # read-only, user
        movl    $0x31003, 0x11000 + 0x31*4      # supervisor
        movl    $0x32006, 0x11000 + 0x32*4      # not present
        movl    $0x00000, 0x11000 + 0x33*4
        movl    $0x10000, %eax
        movl    %eax, %cr3
        movl    %cr0, %eax
        orl     $0x80010000, %eax       # PG and WP
        movl    %eax, %cr0
        jmp     1f
1:      fault   1f
        movl    %eax, 0x30000
1:      fault   1f
        movl    0x32123, %eax
1:      fault   1f
        movl    %eax, 0x31FFE           # crosses into a page that is not there
1:      movl    %eax, 0x31000
        fault   1f
        movl    $0x33000, %eax
        jmp     *%eax                   # fetch
1:      movl    %cr0, %eax
        andl    $~0x10000, %eax
        movl    %eax, %cr0
        movl    %eax, 0x30000           # without WP
        movl    0x11000 + 0x30*4, %eax
        andl    $0x60, %eax
        call    hex32                   # accessed and dirty
        movl    0x10000, %eax
        andl    $0x60, %eax
        call    hex32
        # off, PAE tables, long mode
        say     'L'
        movl    %cr0, %eax
        andl    $0x7FFFFFFF, %eax
        movl    %eax, %cr0
        movl    $0x10000, %edi
        xorl    %eax, %eax
        movl    $0x1800, %ecx
        rep stosl
        movl    $0x11007, 0x10000
        movl    $0x12007, 0x11000
        movl    $0x13007, 0x12000       # first 2 MiB by 4 KiB pages
        movl    $0x200087, 0x12008
        movl    $7, %eax
        movl    $0x13000, %edi
        movl    $512, %ecx
1:      movl    %eax, (%edi)
        addl    $0x1000, %eax
        addl    $8, %edi
        loop    1b
        movl    $0x30005, 0x13000 + 0x30*8
        movl    $0x31003, 0x13000 + 0x31*8
        movl    $0x32006, 0x13000 + 0x32*8
        movl    $0x80000000, 0x13000 + 0x33*8 + 4      # NX
        movl    %cr4, %eax
        orl     $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
        movl    %eax, %cr4
        movl    $0x10000, %eax
        movl    %eax, %cr3
        movl    $0xC0000080, %ecx
        rdmsr
        orl     $0x901, %eax            # LME, NXE, SCE
        wrmsr
        movl    %cr0, %eax
        orl     $0x80010000, %eax
        movl    %eax, %cr0
        rdmsr
        call    hex32
        ljmp    $0x70, $long_mode
hex32:  pushal
        movl    %eax, %edx
        movl    $8, %ecx
1:      roll    $4, %edx
        movb    %dl, %al
        andb    $15, %al
        cmpb    $10, %al
        sbbb    $0x69, %al
        das
        outb    %al, $0xE9
        loop    1b
        say     ' '
        popal
        ret
        .balign 16
stubs32:
        .set    n, 0
        .rept   0x31
        .balign 16
        .if     (n == 8) | ((n >= 10) & (n <= 14)) | (n == 17)
        .else
        pushl   $0
        .endif
        pushl   $n
        jmp     common32
        .set    n, n + 1
        .endr
        .balign 16
common32:                               # vector, error, EIP, CS, EFLAGS, (ESP, SS, ES DS FS GS)
        pushal
        pushl   %ds
        pushl   %es
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movl    %esp, %ebp
        say     '#'
        movl    40(%ebp), %eax
        call    hex32
        movl    44(%ebp), %eax
        call    hex32
        movl    48(%ebp), %eax
        call    hex32
        movl    52(%ebp), %eax
        call    hex32
        movl    56(%ebp), %eax
        call    hex32
        testl   $0x20000, 56(%ebp)
        jnz     1f
        testb   $3, 52(%ebp)
        jz      2f
1:      movl    60(%ebp), %eax
        call    hex32
        movl    64(%ebp), %eax
        call    hex32
2:      cmpl    $14, 40(%ebp)
        jne     2f
        movl    %cr2, %eax
        call    hex32
2:      cmpl    $1, 40(%ebp)
        jne     2f
        movl    %dr6, %eax
        andl    $0xE00F, %eax
        call    hex32
        xorl    %eax, %eax
        movl    %eax, %dr6
        orl     $0x10000, 56(%ebp)      # RF: do not stop again at an instruction breakpoint
2:      say     '\n'
        cmpl    $0x30, 40(%ebp)
        jne     2f
        cmpl    $0x99, 28+8(%ebp)
        jne     2f
        movl    $back32, 48(%ebp)       # EAX = 0x99: leave ring 3
        jmp     leave32
2:      testl   $0x20000, 56(%ebp)
        jz      2f
        # the monitor skips a faulting instruction, whose length is in BX; 0 ends
        movl    16+8(%ebp), %ebx
        testl   %ebx, %ebx
        jz      leave_v86
        cmpl    $3, 40(%ebp)
        je      3f
        addl    %ebx, 48(%ebp)
        jmp     3f
2:      movl    0x500, %eax
        testl   %eax, %eax
        jz      3f
        movl    %eax, 48(%ebp)
        movl    $0, 0x500
3:      popl    %es
        popl    %ds
        popal
        addl    $8, %esp
        iret
leave32:
        movl    0x600, %esp
        jmp     back32
leave_v86:
        jmp     *0x604
# ring 3, copied to 0x20000
user32: movw    $0x23, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movl    $1f - user32 + 0x20000, 0x500
        cli                             # #GP
1:      movl    $1f - user32 + 0x20000, 0x500
        hlt
1:      movl    $1f - user32 + 0x20000, 0x500
        movl    %cr0, %eax
1:      movl    $1f - user32 + 0x20000, 0x500
        inb     $0x80, %al
1:      movl    $1f - user32 + 0x20000, 0x500
        int     $0x20                   # gate with DPL 0
1:      movl    $1f - user32 + 0x20000, 0x500
        movw    $0x10, %ax
        movw    %ax, %ds                # DPL 0 data
1:      movl    $1f - user32 + 0x20000, 0x500
        rdmsr
1:      int3
        movb    $0x7F, %al
        addb    $1, %al
        into
        pushl   $0x32D7
        popf                            # IOPL and IF do not change
        pushf
        popl    %eax
        int     $0x30
        pushl   $0x11112222
        pushl   $0x33334444
        lcall   $0x68, $0               # call gate with two parameters
        pushl   %esp
        popl    %eax
        int     $0x30
        pushf
        orl     $0x100, (%esp)
        popf
        nop
        int     $0x30                   # the handler does not step; the next instruction does
        nop
        pushf
        andl    $~0x100, (%esp)
        popf
        movl    $1f - user32 + 0x20000, 0x500
        .byte   0x0F, 0x05              # SYSCALL: not enabled
1:      movl    $0x99, %eax
        int     $0x30
user32_end:
gate32: pushl   %ebp
        movl    %esp, %ebp
        pushl   %eax
        movl    4(%ebp), %eax
        call    hex32
        movl    8(%ebp), %eax
        call    hex32
        movl    12(%ebp), %eax
        call    hex32
        movl    16(%ebp), %eax
        call    hex32
        movl    20(%ebp), %eax
        call    hex32
        movl    24(%ebp), %eax
        call    hex32
        popl    %eax
        popl    %ebp
        lret    $8
        .code16
v86:    movw    $1, %bx
        cli                             # IOPL 0: #GP
        sti
        pushf
        popf
        movw    $2, %bx
        int     $0x21                   # IOPL 0: #GP
        movw    $1, %bx
        hlt
        iret
        movw    $0x2100, %ax
        movw    %ax, %ds
        movw    %ax, %fs
        movw    $0x55AA, 0x10
        movw    %ss:0x1010, %cx
        movw    $3, %bx
        movl    %cr0, %eax
        movw    $2, %bx
        ud2
        int3
        movw    $0, %bx
        hlt
v86_end:

# ---------------------------------------------------------------------- 64-bit mode
        .code64
.macro  fault64 label
        movq    $\label, 0x500
.endm
long_mode:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $0xA000, %esp
        xorl    %eax, %eax
        movw    %ax, %fs
        movw    %ax, %gs
        movl    $0x1000, %edi
        movl    $stubs64, %ebx
        movl    $0x31, %ecx
1:      movl    %ebx, %eax
        movw    %ax, (%rdi)
        movw    $0x70, 2(%rdi)
        movw    $0x8E00, 4(%rdi)
        shrl    $16, %eax
        movw    %ax, 6(%rdi)
        movq    $0, 8(%rdi)
        addq    $16, %rdi
        addq    $16, %rbx
        loop    1b
        movb    $0xEE, 0x1000 + 3*16 + 5
        movb    $0xEF, 0x1000 + 0x30*16 + 5
        movb    $0x0E, 0x1000 + 0x2F*16 + 5
        movb    $2, 0x1000 + 8*16 + 4           # #DF on IST2
        movb    $1, 0x1000 + 0x2E*16 + 4        # IST1
        lidt    idt_pointer64
        movl    $0x2000, %edi
        xorl    %eax, %eax
        movl    $0x68, %ecx
        rep stosb
        movq    $0xB000, 0x2004
        movq    $0x9803, 0x2024         # IST1: aligned down
        movq    $0x9C00, 0x202C
        movw    $0x68, 0x2066
        movw    $0x80, %ax
        ltr     %ax
        fault64 1f
        ud2
1:      int     $0x30
        int     $0x2E
        pushq   $0
        int     $0x30                   # RSP is aligned down
        addq    $8, %rsp
        fault64 1f
        int     $0x2F
1:      fault64 1f
        movq    $0x8000000000000000, %rax
        movq    (%rax), %rbx            # not canonical
1:      fault64 1f
        movq    %rax, %rbp
        movq    (%rbp), %rbx            # #SS
1:      fault64 1f
        movq    %rax, 0x30000
1:      fault64 1f
        movq    0x32123, %rax
1:      fault64 1f
        movl    $0x33000, %eax
        jmp     *%rax                   # NX
1:      fault64 1f
        movq    0x40000000, %rax
1:      fault64 1f
1:      # double fault: the page of the stack of ring 0 is gone when a page fault is delivered
        movb    $0, 0x1000 + 14*16 + 5          # #PF gate not present: #PF, then #NP
        fault64 1f
        movq    0x32123, %rax
1:      movb    $0x8E, 0x1000 + 14*16 + 5
        movb    $0, 0x1000 + 13*16 + 5          # #GP, then #NP: #DF too
        fault64 1f
        movq    $0x8000000000000000, %rax
        movq    (%rax), %rbx
1:      movb    $0x8E, 0x1000 + 13*16 + 5
        movb    $0, 0x1000 + 6*16 + 5           # #UD, then #NP: #NP alone
        fault64 1f
        ud2
1:      movb    $0x8E, 0x1000 + 6*16 + 5
        # system calls
        movl    $0xC0000081, %ecx
        xorl    %eax, %eax
        movl    $0x00880070, %edx       # SYSCALL: 0x70, 0x78; SYSRET: 0x98, 0x90
        wrmsr
        incl    %ecx
        movl    $syscall64, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $0xC0000084, %ecx
        movl    $0x700, %eax
        wrmsr
        movl    $0x174, %ecx
        movl    $0xA0, %eax
        wrmsr
        incl    %ecx
        movl    $0xA800, %eax
        wrmsr
        incl    %ecx
        movl    $sysenter64, %eax
        wrmsr
        movl    $user64, %esi
        movl    $0x20000, %edi
        movl    $(user64_end - user64), %ecx
        rep movsb
        movq    %rsp, 0x600
        pushq   $0x93
        pushq   $0x20F00
        pushq   $0x0002
        pushq   $0x9B
        pushq   $0x20000
        iretq
back64: movq    0x600, %rsp
        # breakpoints
        movl    $2f, %eax
        movq    %rax, %dr0
        movl    $0x00000402, %eax
        movq    %rax, %dr7
        nop
2:      nop
        movl    $0x706, %eax
        movq    %rax, %dr2
        movl    $0x0B000420, %eax       # DR2: read or write, 8 bytes (0x700 on)
        movq    %rax, %dr7
        movq    0x6F8, %rbx
        movb    0x707, %bl
        movq    %rbx, 0x6FC
        movl    $0x400, %eax
        movq    %rax, %dr7
        pushfq
        orq     $0x100, (%rsp)
        popfq
        nop
        movq    %ss, %rax
        movq    %rax, %ss
        nop
        movl    $0x6F0, %edi
        movl    $3, %ecx
        rep stosb
        pushfq
        andq    $~0x100, (%rsp)
        popfq
        # compatibility mode in ring 0, and back
        movw    $0x10, %ax              # the way to ring 3 and back left them null
        movw    %ax, %ss
        movw    %ax, %ds
        movw    %ax, %es
        pushq   $0x08
        pushq   $compat
        lretq
compat_back:
        say     'T'
        say     '\n'
        lidt    idt_none
        int3                            # triple fault
        .code32
compat: movl    $0xFFFFFFFF, %eax
        incl    %eax
        call    hex32
        fault   1f
        ud2
1:      pushl   $1
        popl    %eax
        int     $0x30
        ljmp    $0x70, $compat_back
        .code64
hex64:  pushq   %rax
        pushq   %rcx
        pushq   %rdx
        movq    %rax, %rdx
        movl    $16, %ecx
1:      rolq    $4, %rdx
        movb    %dl, %al
        andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     2f
        addb    $7, %al
2:      outb    %al, $0xE9
        loop    1b
        say     ' '
        popq    %rdx
        popq    %rcx
        popq    %rax
        ret
        .balign 16
stubs64:
        .set    n, 0
        .rept   0x31
        .balign 16
        .if     (n == 8) | ((n >= 10) & (n <= 14)) | (n == 17)
        .else
        pushq   $0
        .endif
        pushq   $n
        jmp     common64
        .set    n, n + 1
        .endr
        .balign 16
common64:                               # rax rbx, vector, error, RIP, CS, RFLAGS, RSP, SS
        pushq   %rbx
        pushq   %rax
        say     '#'
        .set    k, 16
        .rept   7
        movq    k(%rsp), %rax
        call    hex64
        .set    k, k + 8
        .endr
        movq    %rsp, %rax
        call    hex64
        cmpq    $14, 16(%rsp)
        jne     1f
        movq    %cr2, %rax
        call    hex64
1:      cmpq    $1, 16(%rsp)
        jne     1f
        movq    %dr6, %rax
        andl    $0xE00F, %eax
        call    hex64
        xorl    %eax, %eax
        movq    %rax, %dr6
        orl     $0x10000, 48(%rsp)
1:      say     '\n'
        cmpq    $0x30, 16(%rsp)
        jne     1f
        cmpq    $0x99, (%rsp)
        je      back64
1:      movq    0x500, %rax
        testq   %rax, %rax
        jz      1f
        movq    %rax, 32(%rsp)
        movq    $0, 0x500
1:      popq    %rax
        popq    %rbx
        addq    $16, %rsp
        iretq
syscall64:
        say     'S'
        movq    %rcx, %rax
        call    hex64
        movq    %r11, %rax
        call    hex64
        pushfq
        popq    %rax
        call    hex64
        movq    %cs, %rax
        call    hex64
        movq    %ss, %rax
        call    hex64
        say     '\n'
        sysretq
sysenter64:
        say     'E'
        movq    %rsp, %rax
        call    hex64
        pushfq
        popq    %rax
        call    hex64
        movq    %cs, %rax
        call    hex64
        movq    %ss, %rax
        call    hex64
        say     '\n'
        sysexitq
user64: pushfq
        popq    %rax
        int     $0x30
        movq    %rsp, %r9
        syscall
        movq    %r11, %rax
        int     $0x30
        movl    $1f - user64 + 0x20000, %edx
        movq    %rsp, %rcx
        sysenter
1:      int     $0x30
        movq    $1f - user64 + 0x20000, 0x500
        movq    0x31000, %rax           # supervisor page
1:      movq    $1f - user64 + 0x20000, 0x500
        movq    %rax, 0x31000
1:      movq    $1f - user64 + 0x20000, 0x500
        movl    $0x31000, %eax
        jmp     *%rax
1:      movq    $1f - user64 + 0x20000, 0x500
        hlt
1:      movq    $1f - user64 + 0x20000, 0x500
        swapgs
1:      pushfq
        orq     $0x100, (%rsp)
        popfq
        nop
        syscall                         # FMASK clears TF; SYSRET restores it
        nop
        pushfq
        andq    $~0x100, (%rsp)
        popfq
        movq    $1f - user64 + 0x20000, 0x500
        pushq   $0x70                   # RETF to ring 0
        pushq   $0
        lretq
1:      movl    $0x99, %eax
        int     $0x30
user64_end:

# ---------------------------------------------------------------------- tables
        .balign 16
gdt:    .quad   0
        .quad   0x00CF9B000000FFFF      # 08 code 32, ring 0
        .quad   0x00CF93000000FFFF      # 10 data, ring 0
        .quad   0x00CFFB000000FFFF      # 18 code 32, ring 3
        .quad   0x00CFF3000000FFFF      # 20 data, ring 3
        .quad   0x0000890020000068      # 28 TSS 32
        .quad   0x00009B0F0000FFFF      # 30 code 16
        .quad   0x0000930F0000FFFF      # 38 data 16
        .quad   0
        .quad   0
        .quad   0x00CF13000000FFFF      # 50 data, not present
        .quad   0x0040930000000FFF      # 58 data, limit 0xFFF
        .quad   0x0040970000000FFF      # 60 expand-down data, limit 0xFFF
        .word   gate32 - B, 0x08, 0xEC02, 0xF           # 68 call gate, two parameters
        .quad   0x00AF9B000000FFFF      # 70 code 64, ring 0
        .quad   0x00CF93000000FFFF      # 78 data, ring 0
        .quad   0x0000890020000068      # 80 TSS 64
        .quad   0
        .quad   0x00CFF3000000FFFF      # 90 data, ring 3
        .quad   0x00AFFB000000FFFF      # 98 code 64, ring 3
        .quad   0x00AF9B000000FFFF      # A0 SYSENTER: code 64, data; SYSEXIT: code 32, data, code 64, data
        .quad   0x00CF93000000FFFF
        .quad   0x00CFFB000000FFFF
        .quad   0x00CFF3000000FFFF
        .quad   0x00AFFB000000FFFF
        .quad   0x00CFF3000000FFFF
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   0x3000
idt_pointer32:
        .word   0x31 * 8 - 1
        .long   0x1000
idt_pointer64:
        .word   0x31 * 16 - 1
        .quad   0x1000
idt_none:
        .word   0
        .quad   0
        .org    0xFFF0
        .code16
        ljmp    $0xF000, $(start - B)
        .org    0xFFFF
        .byte   0
